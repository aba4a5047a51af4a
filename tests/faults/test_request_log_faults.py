"""The request log under kills and a full disk: what the client was answered is logged once, or counted as lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from free_ports import free_port
from log_support import commit_all, logged
from reader_support import RunningReader
from realtime_support import write_views
from release_support import a_request, make_release
from small_disks import within_small_disk
from waiting import ThreadsBeside, eventually

from forecache.base.settings import Settings, load_settings
from forecache.declare import Log
from forecache.declare.realtime.request_rows import scores_of

pytestmark = pytest.mark.faults
NAME = "ranking"


def settings_in(home: Path) -> Settings:
    settings = load_settings(home=str(home), lake=str(home / "lake"))
    write_views(settings)
    make_release(settings, deadline_ms=30_000.0, log=Log("household_id"))
    return settings


@contextmanager
def serving(settings: Settings, *, within: Sequence[str] = (), **environment: str) -> Iterator[RunningReader]:
    """`forecache serve` as users start it, with two workers and the committer beside them."""
    port = free_port()
    given = {"HOME": str(settings.home), "LAKE": settings.lake_uri, "READER_PORT": str(port), "READER_WORKERS": "2"}
    given |= {"REQUEST_LOG_DELAY_S": "0.4", **environment}
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    command = [*within, sys.executable, "-m", "forecache.cli.main", "serve"]
    process = subprocess.Popen(
        command, env={**variables, **{f"FORECACHE_{name}": value for name, value in given.items()}}, text=True
    )
    reader = RunningReader(process, port)
    try:
        reader.wait_until_ready()
        yield reader
    finally:
        reader.stop()


class Client(ThreadsBeside):
    """Asks on and on, and remembers what it was answered."""

    def __init__(self, reader: RunningReader) -> None:
        super().__init__(*(partial(self._run, number) for number in range(3)))
        self._url = f"{reader.url}/v1/{NAME}"
        self.answers: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.statuses: Counter[int] = Counter()

    def _run(self, number: int) -> None:
        count, client = 0, httpx.Client(timeout=30)
        while not self.stop.wait(0.002):
            count += 1
            request_id = f"{number}-{count}"
            body = {**json.loads(a_request(household=count % 3)), "request_id": request_id}
            try:
                answer = client.post(self._url, json=body)
            except httpx.TransportError:  # its worker was killed
                self.failed.add(request_id)
                client = httpx.Client(timeout=30)
                continue
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.answers[request_id] = answer.json()


def figures(reader: RunningReader, metric: str) -> dict[str, float]:
    """The samples of a metric of the log, by the reason of a loss or "" where there is none."""
    found = {}
    for line in httpx.get(f"{reader.url}/metrics").text.splitlines():
        if line.startswith(f"forecache_request_log_{metric}{{"):
            found[line.partition('reason="')[2].partition('"')[0]] = float(line.rsplit(" ", 1)[1])
    return found


def children(reader: RunningReader) -> tuple[set[int], set[int]]:
    """The processes of the workers, and of the committer."""
    workers, committers = set(), set()
    for child in psutil.Process(reader.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())
            if "log commit" in command:
                committers.add(child.pid)
            elif "resource_tracker" not in command:
                workers.add(child.pid)
    return workers, committers


def assert_each_is_logged_once(settings: Settings, client: Client, most_lost: float) -> None:
    commit_all(settings, NAME)
    rows = {row["request_id"]: row for row in logged(settings, NAME)}
    counts = Counter(row["request_id"] for row in logged(settings, NAME, columns=["request_id"]))
    assert set(counts.values()) == {1}
    assert rows.keys() <= client.answers.keys() | client.failed
    missing = client.answers.keys() - rows.keys()
    assert len(missing) <= most_lost
    for request_id, row in rows.items():
        answer = client.answers.get(request_id)
        if answer is not None:
            asked, scores = json.loads(row["request"]), scores_of(row)
            assert (row["key"], asked["request_id"]) == (str(asked["household_id"]), request_id)
            assert (row["answered_by"], row["fallback_reason"]) == (
                answer["answered_by"],
                answer.get("fallback_reason", ""),
            )
            if answer["answered_by"] != "model":  # a busy machine was late
                assert scores is None
                continue
            by_product = {item["product_id"]: item["score"] for item in answer["items"]}
            assert scores is not None
            assert scores.tolist() == pytest.approx([by_product[each["product_id"]] for each in asked["candidates"]])


def test_after_kills_of_workers_and_committers_each_answer_is_logged_once_or_counted_as_lost(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with serving(settings) as reader:
        with Client(reader) as client:
            for _ in range(2):
                before = len(client.answers)
                assert eventually(lambda before=before: len(client.answers) > before + 100)
                assert eventually(lambda: all(map(bool, children(reader))))
                workers, committers = children(reader)
                os.kill(min(committers), signal.SIGKILL)
                os.kill(min(workers), signal.SIGKILL)
                before = len(client.answers)
                assert eventually(lambda before=before: len(client.answers) > before + 100)
        assert set(client.statuses) <= {200, 503}  # a worker that comes after another one loads the model first

        def all_accounted_for() -> bool:
            accounted = sum(figures(reader, "rows_committed_total").values()) + lost(reader)
            return accounted >= len(client.answers)

        # The memory of a killed worker is settled by the one that came after it, once it has loaded the model.
        assert eventually(all_accounted_for)
        total = lost(reader)
    assert_each_is_logged_once(settings, client, total)
    assert len(client.answers) > 400
    assert total < 200


def lost(reader: RunningReader) -> float:
    return sum(figures(reader, "rows_lost_total").values())


def test_a_reader_that_is_stopped_without_a_committer_loses_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with serving(settings, REQUEST_LOG_COMMITTER="off") as reader, Client(reader) as client:
        assert eventually(lambda: len(client.answers) > 200)
    assert_each_is_logged_once(settings, client, 0)


def test_a_full_disk_costs_rows_and_no_answer(tmp_path: Path) -> None:
    settings, spool = settings_in(tmp_path), tmp_path / "small"
    spool.mkdir()
    within = within_small_disk(spool, "300k")
    with serving(settings, within=within, REQUEST_LOG_SPOOL=str(spool), REQUEST_LOG_COMMITTER="off") as reader:
        with Client(reader) as client:
            assert eventually(lambda: figures(reader, "rows_lost_total").get("disk", 0) > 50)
        assert set(client.statuses) == {200}
        assert not client.failed
        # A model on the event loop is given up where the reader stands still for 0.1 s within its microseconds.
        late = [answer["fallback_reason"] for answer in client.answers.values() if answer["answered_by"] != "model"]
        assert set(late) <= {"deadline"}
        assert len(late) <= 0.1 * len(client.answers)
        # Through the reader's own view of its folders, for the committer sees what it sees.
        home = tmp_path / "seen"
        shutil.copytree(f"/proc/{reader.process.pid}/root{spool}", home)
        total = lost(reader)
    assert total < len(client.answers)
    seen = load_settings(home=str(settings.home), lake=settings.lake_uri, request_log_spool=str(home))
    commit_all(seen, NAME)
    rows = Counter(row["request_id"] for row in logged(seen, NAME, columns=["request_id"]))
    assert set(rows.values()) == {1}
    assert len(rows) >= len(client.answers) - total - 200
