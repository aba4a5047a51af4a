"""A reader on an empty disk answers from a bucket that is far away, until a pull has brought the version."""

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Distance, Proxy, fault_proxy
from reader_support import RunningReader, running_reader
from store_services import minio_server
from store_tables import churn, predictions, scores, upsert, write_night
from waiting import eventually

from forecache.base.settings import load_settings
from forecache.serve.store import Store, open_store, publish

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KEYS, _LAST = 12_000, "11999"
_FAR = Distance(latency_s=0.1, bytes_per_s=50e6)
_PULL = """
import json, sys
from forecache.base.settings import load_settings
from forecache.kit.versioned import transfer
from forecache.serve.store import open_remote, open_store, pull
settings, stops = load_settings(**json.loads(sys.argv[1])), sys.argv[2] == "stops"
move = transfer.move_durably
def stop(part, target):
    if stops and target.name == "000.mdb":
        print("fetched", flush=True)
        sys.stdin.read()
    move(part, target)
transfer.move_durably = stop
pull(open_store(settings, "churn"), open_remote(settings.store_remote, settings.storage_options))
print("pulled", flush=True)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio"), "far") as options:
        yield options


@pytest.fixture(scope="module")
def rows(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Publish a base and three deltas, with a tombstone, into the bucket; the scores that are served."""
    home = load_settings(home=tmp_path_factory.mktemp("publisher"), store_remote="s3://far/store", storage_options=s3)
    served = scores(KEYS)
    write_night(home, predictions(served))
    publish(home, churn())
    for changed in ({"00007": 0.125, "new|er": 0.25}, {"00007": 0.375, _LAST: 0.5}):
        served |= changed
        upsert(home, predictions(changed))
        publish(home, churn())
    del served["00100"]
    write_night(home, predictions(served))
    done = publish(home, churn()).details
    assert (done["kind"], done["segments"], done["removed"]) == ("incremental", 4, 1)
    return served


@pytest.fixture
def far(s3: dict[str, str]) -> Iterator[Proxy]:
    with fault_proxy(s3["AWS_ENDPOINT_URL"], distance=_FAR) as proxy:
        yield proxy


@pytest.fixture
def replica(s3: dict[str, str], far: Proxy, tmp_path: Path) -> dict[str, Any]:
    """Arguments of the settings of a machine with an empty disk."""
    options = s3 | {"AWS_ENDPOINT_URL": far.address}
    return {"home": str(tmp_path / "replica"), "store_remote": "s3://far/store", "storage_options": options}


def reader_of(replica: dict[str, Any], **more: Any) -> AbstractContextManager[RunningReader]:
    return running_reader(load_settings(home=replica["home"]), **replica, **more)


def call(reader: RunningReader, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """(status, JSON) of a request on a connection of its own, which reaches any of the workers."""
    connection = http.client.HTTPConnection("127.0.0.1", reader.port, timeout=120)
    try:
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, {"content-type": "application/json"})
        found = connection.getresponse()
        return found.status, json.loads(found.read())
    finally:
        connection.close()


def ask(reader: RunningReader, key: str) -> tuple[int, float | None]:
    status, found = call(reader, f"/v1/churn/{urllib.parse.quote(key)}")
    assert status != 503 or "s3://far/store" in found["detail"]
    return status, found["value"]["churn_probability"] if status == 200 else None


def ask_until_answered(reader: RunningReader, key: str) -> tuple[int, float | None]:
    """As `ask`, again and again while the answer is 503: a machine that stands still makes the bucket look away."""
    answers = list[tuple[int, float | None]]()
    assert eventually(lambda: answers.append(ask(reader, key)) or answers[-1][0] != 503)
    return answers[-1]


def ask_many(reader: RunningReader, keys: list[str]) -> list[float | None]:
    """The scores of keys, None for unknown ones; asked again while the answer is 503."""
    answers = list[tuple[int, Any]]()
    assert eventually(lambda: answers.append(call(reader, "/v1/churn", {"keys": keys})) or answers[-1][0] != 503)
    status, found = answers[-1]
    assert status == 200, found
    return [row["value"]["churn_probability"] if row["found"] else None for row in found["results"]]


def require_rows(reader: RunningReader, rows: dict[str, float], every: int = 1) -> None:
    keys = [*list(rows)[::every], "00007", "new|er", _LAST, "00100", "nobody"]
    for start in range(0, len(keys), 1000):
        some = keys[start : start + 1000]
        assert ask_many(reader, some) == [rows.get(key) for key in some]


def run_pull(replica: dict[str, Any], how: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _PULL, json.dumps(replica), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_empty_reader_answers_from_the_bucket_and_from_its_disk_once_a_pull_has_ended(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    store = open_store(load_settings(**replica), "churn")
    with reader_of(replica, reader_workers=2) as reader:
        for key in ("00042", "00007", "new|er"):
            assert ask_until_answered(reader, key) == (200, rows[key])
        for key in ("00100", "nobody"):
            assert ask_until_answered(reader, key)[0] == 404
        [version] = call(reader, "/versions/churn")[1]["versions"]
        assert version["store_version"] == 4
        # A pull is killed with a file that it has fetched, and so are the reader and its workers.
        killed = run_pull(replica, "stops")
        assert killed.stdout is not None
        assert killed.stdout.readline() == "fetched\n"
        require_rows(reader, rows, every=100)
        killed.kill()
        killed.wait()
        require_rows(reader, rows, every=90)
        for process in (reader.process.pid, *reader.workers()):
            os.kill(process, signal.SIGKILL)
    assert store.pointer().serving is None
    with reader_of(replica, reader_workers=2) as reader:
        require_rows(reader, rows, every=80)
        pulled = run_pull(replica)
        assert pulled.communicate("")[0] == "pulled\n"
        assert store.pointer().serving == 4
        assert eventually(lambda: num_leases(store, reader) == 2), "each worker has the version here, and its lease"
        os.kill(far.pid, signal.SIGSTOP)
        require_rows(reader, rows)
        assert not any(store.layout.staging.iterdir())


def num_leases(store: Store, reader: RunningReader) -> int:
    """How many workers of a reader hold the lease of a version."""
    folders = [Path(f"/proc/{process}/fd") for process in reader.workers()]
    return sum(any(file.resolve() == store.layout.lease(4) for file in folder.iterdir()) for folder in folders)


def test_a_bucket_that_does_not_answer_is_503_and_never_an_unknown_key_and_the_reader_stops(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    with reader_of(replica, reader_workers=1) as reader:
        assert ask_until_answered(reader, "00042") == (200, rows["00042"])
        os.kill(far.pid, signal.SIGSTOP)
        assert ask_until_refused(reader) == (503, None)
        for key in ("nobody", "00100", _LAST):
            assert ask(reader, key)[0] in (503, 404 if key not in rows else 200)
        assert call(reader, "/readyz")[0] == 200
        os.kill(far.pid, signal.SIGCONT)
        assert ask_until_answered(reader, _LAST) == (200, rows[_LAST])
        assert ask_until_answered(reader, "nobody")[0] == 404
        os.kill(far.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(100) as clients:
            asked = [clients.submit(ask, reader, key) for key in list(rows)[::40][:100]]
            reader.process.send_signal(signal.SIGTERM)
            assert {each.result()[0] for each in asked if not each.exception()} <= {200, 503}
        assert reader.process.wait(300) == 0


def ask_until_refused(reader: RunningReader) -> tuple[int, float | None]:
    """The first answer to a key whose blocks are not here; keys near the ones before may be."""
    answers = (ask(reader, f"{number:05d}") for number in range(KEYS - 1, 0, -100))
    return next(answer for answer in answers if answer[0] != 200)


def test_a_reader_that_starts_before_the_bucket_answers_gets_ready_once_it_does(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    os.kill(far.pid, signal.SIGSTOP)
    with reader_of(replica, reader_workers=1, wait=False) as reader:
        assert eventually(lambda: status_of(reader, "/readyz") == 503)
        assert {status_of(reader, "/v1/churn/00042"), status_of(reader, "/v1/nothing/00042")} == {503}
        os.kill(far.pid, signal.SIGCONT)
        reader.wait_until_ready(300)
        assert ask_until_answered(reader, "00042") == (200, rows["00042"])
        assert status_of(reader, "/v1/nothing/00042") == 404


def status_of(reader: RunningReader, path: str) -> int:
    try:
        return call(reader, path)[0]
    except OSError:
        return 0
