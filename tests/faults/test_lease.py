"""The lease of the kit, in a folder and on a real S3-compatible server: one process of all machines holds it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Schema
from free_ports import free_port
from store_services import minio_server
from waiting import wait_for

from forecache.base.errors import ConflictError
from forecache.base.folders import BucketFolder, Folder, LocalFolder, open_folder
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.delta.commit import Change, Target, commit
from forecache.kit.delta.tables import open_table
from forecache.kit.installation import hold_exclusively
from forecache.kit.lease import LeaseLostError, hold_lease, read_leases
from forecache.kit.process.child import is_stopped

pytestmark = [pytest.mark.slow, pytest.mark.faults]

RENEW_S, SOON_S = 0.3, 3.0
_HOLDER = """
import json, sys
from dataclasses import replace
from other_machine import guard_swaps, stand_still
from forecache.base.folders import open_folder
from forecache.kit import lease

guard_swaps()
lease.LEASE = replace(lease.LEASE, every_s=0.3)
lease.TERM_S, lease.MARGIN_S = float(sys.argv[4]), 0.5
found = lease.this_process
lease.this_process = lambda *of: replace(found(*of), **json.loads(sys.argv[3]))
folder = open_folder(sys.argv[1], json.loads(sys.argv[2]), setting="TEST")
with lease.hold_lease(folder, "tables/x", action="writing", run_id="run-a") as held:
    print("held", held.token, flush=True)
    for line in sys.stdin:
        try:
            stand_still() if line.strip() == "stand still" else getattr(held, line.strip())()
            print("valid", flush=True)
        except lease.LeaseLostError as error:
            print(error.message, flush=True)
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """URI and options of the folder with the leases."""
    if request.param == "folder":
        return str(tmp_path / "shared"), {}
    return f"s3://cloud/{tmp_path.name}", request.getfixturevalue("options")


@pytest.fixture(autouse=True)
def _renewed_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=RENEW_S))


def folder_of(place: tuple[str, dict[str, str]]) -> Folder:
    return open_folder(*place, setting="TEST")


class Other:
    """Another process that holds the lease, on another machine if its name or boot differs."""

    def __init__(self, place: tuple[str, dict[str, str]], *, term_s: float = 60.0, **differs: str) -> None:
        command = [sys.executable, "-c", _HOLDER, place[0], json.dumps(place[1]), json.dumps(differs), str(term_s)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        held, token = self.line().split()
        assert held == "held"
        self.token = int(token)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def ask(self, what: str) -> str:
        self.tell(what)
        return self.line()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)

    def end(self) -> None:
        self.process.communicate(timeout=60)


ELSEWHERE = {"host": "gpu-7", "machine": "another boot"}


def take(place: tuple[str, dict[str, str]], *, wait_s: float | None = 0.0) -> tuple[int, list[str]]:
    """Hold the lease for a moment; returns its token and what was reported."""
    said: list[str] = []
    with hold_lease(folder_of(place), "tables/x", action="testing", wait_s=wait_s, report=said.append) as held:
        held.confirm()
        return held.token, said


def test_who_waits_is_told_of_each_holder_that_follows_the_one_it_waited_for(
    place: tuple[str, dict[str, str]],
) -> None:
    first, folder, said = Other(place, **ELSEWHERE), folder_of(place), []

    def wait_for_it() -> None:
        with hold_lease(folder, "tables/x", action="testing", report=said.append):
            pass

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    wait_for(lambda: len(said) == 1)
    first.kill()
    content, tag = folder.read(".leases/tables/x.json")
    second = {**json.loads(content), "host": "gpu-8", "mark": "of the second"}
    tag = folder.swap(".leases/tables/x.json", json.dumps(second).encode(), tag)
    wait_for(lambda: len(said) == 2)
    folder.swap(".leases/tables/x.json", json.dumps({**second, "released": True}).encode(), tag)
    waiting.join()
    assert ["on gpu-7" in said[0], "on gpu-8" in said[1], len(said)] == [True, True, 2]


@pytest.mark.parametrize("where", [{}, ELSEWHERE])
def test_the_second_of_two_processes_is_refused_with_the_holder_and_has_it_after_the_release(
    place: tuple[str, dict[str, str]], where: dict[str, str]
) -> None:
    first = Other(place, **where)
    with pytest.raises(ConflictError, match=rf"'tables/x' is being held by process {first.process.pid} on .*run-a"):
        take(place)
    [holder] = read_leases(folder_of(place))
    assert (holder.pid, holder.action, holder.released) == (first.process.pid, "writing", False)
    first.end()
    assert take(place) == (first.token + 1, [])
    [holder] = read_leases(folder_of(place))
    assert holder.released


def test_a_killed_holder_of_this_machine_is_replaced_at_once(place: tuple[str, dict[str, str]]) -> None:
    first = Other(place)
    first.process.send_signal(signal.SIGKILL)  # not waited for: a zombie is dead, too
    wait_for(lambda: read_leases(folder_of(place))[0].is_dead)
    assert take(place) == (first.token + 1, [])
    first.end()


def test_a_killed_holder_of_another_machine_is_replaced_when_its_term_is_over(
    place: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "TERM_S", SOON_S)
    monkeypatch.setattr(lease, "MARGIN_S", -60.0)  # the process here may be slow
    first = Other(place, **ELSEWHERE)
    first.kill()
    started = time.monotonic()
    token, said = take(place)
    assert time.monotonic() - started >= SOON_S
    assert (token, len(said)) == (first.token + 1, 1)
    assert "on gpu-7" in said[0]


def test_of_many_contenders_for_a_lease_whose_holder_died_one_at_a_time_has_it(
    place: tuple[str, dict[str, str]],
) -> None:
    first = Other(place)
    first.kill()
    inside, tokens = [0, 0], list[int]()

    def contend() -> None:
        with hold_lease(folder_of(place), "tables/x", action="testing") as held:
            inside[0] += 1
            inside[1] = max(inside)
            tokens.append(held.token)
            held.confirm()
            inside[0] -= 1

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [0, 1]
    assert tokens == [first.token + number for number in range(1, 7)]


@pytest.mark.parametrize("asked", ["check", "confirm"])
def test_a_holder_that_stood_still_past_its_term_knows_and_leaves_the_new_holder_alone(
    place: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(lease, "TERM_S", SOON_S)
    monkeypatch.setattr(lease, "MARGIN_S", 0.5)
    first = Other(place, term_s=SOON_S, **ELSEWHERE)
    for _ in range(5):
        if (said := first.ask(asked)) == "valid":
            break
        first.kill()  # the machine stood still for longer than the term
        first = Other(place, term_s=SOON_S, **ELSEWHERE)
    assert said == "valid"
    first.tell("stand still")
    wait_for(lambda: is_stopped(first.process.pid))
    monkeypatch.setattr(lease, "TERM_S", 60.0)  # of the holder here, who may be slow, from the takeover on
    with monkeypatch.context() as patch:
        patch.setattr(lease, "TERM_S", SOON_S)
        taken = hold_lease(folder_of(place), "tables/x", action="testing")
        held = taken.__enter__()
    held.renew()
    try:
        first.process.send_signal(signal.SIGCONT)
        assert first.line() == "valid"  # that is all that it was told
        assert first.ask(asked).startswith("The lease 'tables/x' in ")
        first.end()  # it does not release what is another's
        held.confirm()
        assert [each.action for each in read_leases(folder_of(place))] == ["testing"]
    finally:
        taken.__exit__(None, None, None)


def test_a_put_whose_answer_was_lost_is_recognised(
    place: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = LocalFolder if "://" not in place[0] else BucketFolder
    swap, lost = kind.swap, [True]

    def lose_answer(self: Any, name: str, content: bytes, tag: Any) -> Any:
        done = swap(self, name, content, tag)
        lost.append(not lost[-1])
        return None if lost[-1] else done

    monkeypatch.setattr(kind, "swap", lose_answer)  # each second answer
    with hold_lease(folder_of(place), "tables/x", action="testing") as held:
        token = held.token
        for _ in range(6):
            held.confirm()
        assert held.token == token


def test_a_lease_that_was_removed_is_lost(place: tuple[str, dict[str, str]]) -> None:
    folder = folder_of(place)
    with hold_lease(folder, "tables/x", action="testing") as held:
        folder.delete([".leases/tables/x.json"])
        with pytest.raises(LeaseLostError, match="was removed"):
            held.confirm()
    assert take(place)[0] >= held.token, "it does not count from the beginning again"


def test_renewals_that_an_object_store_does_not_answer_are_logged_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = BucketFolder(
        "s3://cloud/lake",
        {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
         "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret-word"},
        patience_s=0.1,
    )  # fmt: skip
    tries: list[int] = []

    def swap(_: LocalFolder, name: str, content: bytes, tag: Any) -> Any:
        tries.append(1)
        return away.swap(name, content, None)

    with hold_lease(LocalFolder(tmp_path), "tables/x", action="testing"), monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "swap", swap)
        wait_for(lambda: len(tries) > 3)
    said = [record for record in caplog.records if "Renewing a lease failed" in record.getMessage()]
    assert said
    for record in said:
        assert record.exc_info is None
        assert re.match(r".*: s3://cloud/lake cannot be reached: .*try again\.$", record.getMessage())


def test_an_object_that_is_no_lease_is_named(place: tuple[str, dict[str, str]]) -> None:
    folder_of(place).write(".leases/tables/x.json", b"{")
    with pytest.raises(ConflictError, match=r"\.leases/tables/x\.json is not a lease"):
        take(place)


def row_change(settings: Settings, held: Any, number: int) -> int:
    """Commit one transaction of the table `x` under a lease."""
    schema = Schema.from_arrow(pa.schema([("n", pa.int64())]))
    target = Target(settings, "x", schema, fence=held)
    return commit(target, lambda state: Change(transactions={"row": number}))


def test_a_commit_of_an_earlier_holder_is_refused_once_a_later_one_has_committed(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(
        home=tmp_path / "a", lake=f"s3://cloud/{tmp_path.name}/lake", storage_options=options, project="sample_project"
    )
    with hold_exclusively(settings, "x", action="testing") as first:
        row_change(settings, first, 1)
    monkeypatch.setattr(type(first), "check", lambda self: None)  # as if it stood still right after its own look
    elsewhere = settings.model_copy(update={"home": tmp_path / "b"})
    with hold_exclusively(elsewhere, "x", action="testing") as second:
        row_change(elsewhere, second, 2)
    with pytest.raises(LeaseLostError, match="later holder of the lease 'x'"):
        row_change(settings, first, 3)
    assert open_table(settings, "x").transaction_version("row") == 2


def test_on_a_local_lake_the_lock_is_a_file_and_no_lease(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, project="sample_project")
    with hold_exclusively(settings, "tables/x", action="writing") as held:
        held.check()
        held.confirm()
        assert held.token == 0
        said: list[str] = []
        with (
            pytest.raises(ConflictError, match=rf"'tables/x' is being held by process {os.getpid()} \(writing\)"),
            hold_exclusively(settings, "tables/x", action="again", wait_s=0.1, report=said.append),
        ):
            pass
        assert said == [f"process {os.getpid()} (writing)"]
    assert not (tmp_path / "lake").exists()
