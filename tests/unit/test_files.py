"""Files that are replaced in one step, locks, and folders by their URI."""

import multiprocessing
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from free_ports import free_port

from forecache.base.errors import ConflictError, SettingsError, UnreachableError
from forecache.base.files import is_locked, lock, replace_file, write_durably
from forecache.base.folders import BucketFolder, LocalFolder, open_folder


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_durably(path, "old")

    def fail() -> None:
        with replace_file(path) as unfinished:
            assert unfinished.suffix == ".json"
            unfinished.write_text("half of")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_are_asked_for(tmp_path: Path) -> None:
    write_durably(tmp_path / "secret", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def _hold(path: Path, held: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    with lock(path, holder="process 7 (test)"):
        held.set()
        end.wait(120)


def test_a_lock_refuses_with_its_holder_or_waits_for_it(tmp_path: Path) -> None:
    path, spawn = tmp_path / "locks" / "LOCK", multiprocessing.get_context("spawn")
    held, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(path, held, end))
    process.start()
    assert held.wait(120)
    told: list[str] = []

    def waiting(holder: str) -> None:
        told.append(holder)
        end.set()

    with pytest.raises(ConflictError, match=r"process 7 \(test\)"), lock(path, refused=ConflictError, wait_s=0.1):
        pass
    with lock(path, waiting=waiting):
        assert told == ["process 7 (test)"]
    process.join()


def test_a_folder_is_local_or_in_a_bucket_by_its_uri(tmp_path: Path) -> None:
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        assert isinstance(open_folder(uri, {}, setting="A_SETTING"), LocalFolder)
    bucket = open_folder("s3a://bucket/checkpoints", {"AWS_REGION": "eu-west-1"}, setting="A_SETTING")
    assert isinstance(bucket, BucketFolder)
    with pytest.raises(SettingsError, match="A_SETTING is 'ftp://elsewhere'"):
        open_folder("ftp://elsewhere", {}, setting="A_SETTING")
    with pytest.raises(SettingsError, match="^s3://bucket/x cannot be opened: Configuration key: 'speed' is not"):
        open_folder("s3://bucket/x", {"SPEED": "high"}, setting="A_SETTING")


_REQUESTS: dict[str, Callable[[BucketFolder, Path], object]] = {
    "read": lambda bucket, _: bucket.read("x"),
    "write": lambda bucket, _: bucket.write("x", b""),
    "create": lambda bucket, _: bucket.swap("x", b"", None),
    "replace": lambda bucket, _: bucket.swap("x", b"", {"e_tag": "1"}),
    "upload": lambda bucket, file: bucket.upload(file, "x"),
    "open": lambda bucket, _: bucket.open("x", "rb").read(),
    "chunks": lambda bucket, _: list(bucket.chunks("x", 0)),
    "range": lambda bucket, _: bucket.read_range("x", 0, 1),
    "size": lambda bucket, _: bucket.size("x"),
    "names": lambda bucket, _: bucket.names(),
    "folders": lambda bucket, _: bucket.folders(),
    "rename": lambda bucket, _: bucket.rename("x", "y"),
    "delete": lambda bucket, _: bucket.delete(["x"]),
}


class _Refusing(BaseHTTPRequestHandler):
    status = 503

    def do_GET(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>Later.</Message></Error>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def _bucket(port: int, *, patience_s: float = 60.0) -> BucketFolder:
    options = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret-word",
    }  # fmt: skip
    return BucketFolder("s3://cloud/lake", options, patience_s=patience_s)


@contextmanager
def _answering(status: int) -> Iterator[int]:
    """The port of an object store that answers every request with a status."""
    handler = type("Handler", (_Refusing,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _assert_one_sentence(bucket: BucketFolder, file: Path, cause: str) -> None:
    file.write_bytes(b"1")
    for name, request in _REQUESTS.items():
        with pytest.raises(UnreachableError) as caught:
            request(bucket, file)
        said = str(caught.value)
        assert re.match(rf"s3://cloud/lake cannot be reached: {cause}\. Make sure ", said), name
        assert "\n" not in said, name
        assert "secret-word" not in said, name


@pytest.mark.parametrize(("status", "text"), [(403, "Forbidden"), (400, "Bad Request")])
def test_a_refusal_of_an_object_store_is_one_sentence_from_every_method(tmp_path: Path, status: int, text: str) -> None:
    with _answering(status) as port:
        _assert_one_sentence(_bucket(port), tmp_path / "file", rf"{status} {text}( \(SlowDown\))?")


def test_an_object_store_that_does_not_answer_is_one_sentence_from_every_method(tmp_path: Path) -> None:
    bucket = _bucket(free_port(), patience_s=0.1)
    _assert_one_sentence(bucket, tmp_path / "file", "(Connection refused|no answer in time)")


def test_a_bucket_that_is_missing_is_no_missing_object(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with _answering(404) as port:
        bucket = _bucket(port)
        for name in ("write", "create", "upload", "names", "folders", "delete"):
            with pytest.raises(UnreachableError, match="404 Not Found"):
                _REQUESTS[name](bucket, tmp_path / "file")
        for name in ("read", "replace", "size"):
            assert _REQUESTS[name](bucket, tmp_path) is None
        for name in ("open", "chunks", "rename", "upload"):
            with pytest.raises(FileNotFoundError):
                _REQUESTS[name](bucket, tmp_path / "nothing")


def test_a_lock_is_seen_by_others_while_it_is_held_and_a_missing_file_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    assert not is_locked(path)
    assert not path.exists()
    with lock(path):
        assert is_locked(path)
        assert is_locked(path)
    assert not is_locked(path)
    with pytest.raises(NotADirectoryError):
        is_locked(path / "LOCK")  # that it cannot be read does not say that it is free
