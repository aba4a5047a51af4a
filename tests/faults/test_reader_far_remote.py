"""A reader on an empty disk answers from a bucket that is far away, until a pull has brought the version."""

import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_proxy import Distance, Proxy, fault_proxy
from reader_support import RunningReader, running_reader
from store_services import minio_server
from store_tables import churn, predictions, scores, upsert, write_night
from waiting import eventually

from forecache.base.settings import load_settings
from forecache.serve.store import open_store, publish

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KEYS = 40_000
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


@pytest.fixture
def rows(s3: dict[str, str], tmp_path: Path) -> dict[str, float]:
    """Publish a base and two deltas, with tombstones, into the bucket; the scores that are served."""
    home = load_settings(home=tmp_path / "publisher", store_remote="s3://far/store", storage_options=s3)
    served = scores(KEYS)
    write_night(home, predictions(served))
    publish(home, churn())
    for changed in ({"00007": 0.125, "new|er": 0.25}, {"00007": 0.375, "39999": 0.5}):
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
        os.kill(proxy.pid, signal.SIGCONT)


@pytest.fixture
def replica(s3: dict[str, str], far: Proxy, tmp_path: Path) -> dict[str, Any]:
    """Arguments of the settings of a machine with an empty disk."""
    options = s3 | {"AWS_ENDPOINT_URL": far.address}
    return {"home": str(tmp_path / "replica"), "store_remote": "s3://far/store", "storage_options": options}


def ask(reader: RunningReader, key: str) -> tuple[int, float | None]:
    found = httpx.get(f"{reader.url}/v1/churn/{urllib.parse.quote(key)}", timeout=120)
    return found.status_code, found.json()["value"]["churn_probability"] if found.status_code == 200 else None


def ask_until_answered(reader: RunningReader, key: str) -> tuple[int, float | None]:
    """As `ask`, again and again while the answer is 503: a machine that stands still makes the bucket look away."""
    answers = list[tuple[int, float | None]]()
    assert eventually(lambda: answers.append(ask(reader, key)) or answers[-1][0] != 503, limit_s=120)
    return answers[-1]


def ask_many(reader: RunningReader, keys: list[str]) -> list[float | None]:
    """The scores of keys, None for unknown ones; asked again while the answer is 503."""
    answers = list[httpx.Response]()

    def ask_once() -> bool:
        answers.append(httpx.post(f"{reader.url}/v1/churn", json={"keys": keys}, timeout=120))
        return answers[-1].status_code != 503

    assert eventually(ask_once, limit_s=300)
    assert answers[-1].status_code == 200, answers[-1].text
    return [row["value"]["churn_probability"] if row["found"] else None for row in answers[-1].json()["results"]]


def require_rows(reader: RunningReader, rows: dict[str, float], every: int = 1) -> None:
    keys = [*list(rows)[::every], "00007", "new|er", "39999", "00100", "nobody"]
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        assert ask_many(reader, some) == [rows.get(key) for key in some]


def run_pull(replica: dict[str, Any], how: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _PULL, json.dumps(replica), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_empty_reader_answers_from_the_bucket_and_from_its_disk_once_a_pull_has_ended(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    store = open_store(load_settings(**replica), "churn")
    with running_reader(load_settings(home=replica["home"]), reader_workers=2, **replica) as reader:
        for key in ("00042", "00007", "new|er"):
            assert ask_until_answered(reader, key) == (200, rows[key])
        for key in ("00100", "nobody"):
            assert ask_until_answered(reader, key)[0] == 404
        require_rows(reader, rows, every=400)
        assert store.pointer().serving is None
        # A pull is killed with a file that it has fetched, and another one goes on.
        killed = run_pull(replica, "stops")
        assert killed.stdout is not None
        assert killed.stdout.readline() == "fetched\n"
        require_rows(reader, rows, every=100)
        killed.kill()
        killed.wait()
        require_rows(reader, rows, every=90)
        pulled = run_pull(replica)
        assert pulled.communicate("")[0] == "pulled\n"
        assert store.pointer().serving == store.manifest(4).version
        assert eventually(lambda: _is_local(reader), limit_s=120)
        os.kill(far.pid, signal.SIGSTOP)
        require_rows(reader, rows)


def _is_local(reader: RunningReader) -> bool:
    """Whether both workers have listed the retained versions that are here."""
    found = [httpx.get(f"{reader.url}/versions/churn").json()["versions"] for _ in range(20)]
    return all([row["store_version"] for row in rows] == [4] for rows in found)


def test_a_bucket_that_does_not_answer_is_503_and_never_an_unknown_key(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    with running_reader(load_settings(home=replica["home"]), reader_workers=1, **replica) as reader:
        assert ask_until_answered(reader, "00042") == (200, rows["00042"])
        os.kill(far.pid, signal.SIGSTOP)
        assert ask(reader, "00042") == (200, rows["00042"])
        assert httpx.get(f"{reader.url}/readyz").status_code == 200
        far_away = [ask(reader, key)[0] for key in ("20000", "39998", "nobody", "00100")]
        assert 503 in far_away
        assert set(far_away) <= {200, 404, 503}
        answers = {key: ask(reader, key) for key in ("20000", "39998")}
        assert all(found in ((200, rows[key]), (503, None)) for key, found in answers.items())
        os.kill(far.pid, signal.SIGCONT)
        assert eventually(lambda: ask(reader, "20000") == (200, rows["20000"]), limit_s=60)
        assert eventually(lambda: ask(reader, "nobody")[0] == 404, limit_s=60)


def test_a_reader_that_starts_before_the_bucket_answers_gets_ready_once_it_does(
    rows: dict[str, float], replica: dict[str, Any], far: Proxy
) -> None:
    os.kill(far.pid, signal.SIGSTOP)
    with running_reader(load_settings(home=replica["home"]), reader_workers=1, wait=False, **replica) as reader:
        assert eventually(lambda: _status_of(reader, "/readyz") == 503, limit_s=60)
        assert _status_of(reader, "/v1/churn/00042") == 503
        os.kill(far.pid, signal.SIGCONT)
        reader.wait_until_ready(300)
        assert ask_until_answered(reader, "00042") == (200, rows["00042"])


def _status_of(reader: RunningReader, path: str) -> int:
    try:
        return httpx.get(reader.url + path, timeout=30).status_code
    except httpx.TransportError:
        return 0
