"""What was sent and done, with a lake in a bucket: known to machines with empty homes, done by one of those at once.

A machine is a process with a home, a host and a boot of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from alert_receivers import Receiver, receiver
from lineage_sample import stage_rows
from store_services import minio_server
from taken_lease import take_over_lease

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import extract_step
from forecache.declare import Column, Query, Source
from forecache.kit.installation import open_lake
from forecache.kit.lease import LeaseLostError
from forecache.lake.ledger import append_records
from forecache.operations.release import record_requests, recorded_requests
from forecache.plugins.alerts.journal import read_noted_alerts
from forecache.plugins.lineage.emit import recorded_facts
from forecache.plugins.table_sources import extract as extraction

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(300)]

EPOCH = datetime.fromtimestamp(0, timezone.utc)
_MACHINE = """
import json, os, signal, sys
from datetime import datetime, timezone
from other_machine import move_to
from forecache.base.alert import Alert, Subject
from forecache.base.settings import load_settings
from forecache.plugins.alerts import notify as alerts
from forecache.plugins.lineage import emit

host, what, step, end, takes_over = sys.argv[1:]
move_to(host, takes_over=bool(takes_over))
left = 3 if what == "lineage" else 1

def on_step(name):
    global left
    left -= name == step
    if name == step and left == 0:
        print("at", step, flush=True)
        os.kill(os.getpid(), getattr(signal, end))

alerts.alert_step.on_step = emit.lineage_step.on_step = on_step
settings = load_settings()
at = datetime(2026, 1, 2, tzinfo=timezone.utc)
stale = Alert("version_stale", "churn", "warning", "Old.", {}, at)
refused = [Alert("gate_refused", "churn", "warning", "No.", {}, at, str(number)) for number in range(6)]
if what == "alerts":
    print(json.dumps([vars(each) for each in alerts.notify(settings, [stale, *refused[:1]])]), flush=True)
elif what == "many":
    for number in range(6):
        found = alerts.notify(settings, refused[: number + 1])
    print(json.dumps([vars(each) for each in found]), flush=True)
elif what == "over":
    print(json.dumps([vars(each) for each in alerts.notify(settings, complete=["version_stale"])]), flush=True)
else:
    print(json.dumps([vars(each) for each in emit.emit_new(settings)]), flush=True)
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


class Machines:
    """Machines over one lake in a bucket."""

    def __init__(self, folder: Path, options: dict[str, str], url: str) -> None:
        self.folder = folder
        self._shared = {
            "FORECACHE_LAKE": f"s3://cloud/{folder.name}/lake",
            "FORECACHE_STORAGE_OPTIONS": json.dumps(options),
            "FORECACHE_ALERT_WEBHOOK": f"{url}/hook",
            "FORECACHE_OPENLINEAGE_URL": url,
            "FORECACHE_PROJECT": "shop",
        }

    def settings(self, host: str) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment(host).items():
                patch.setenv(name, value)
            return load_settings()

    def start(
        self, host: str, what: str, step: str = "", end: str = "SIGKILL", *, takes_over: bool = False
    ) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **self._environment(host)}
        command = [sys.executable, "-c", _MACHINE, host, what, step, end, "yes" if takes_over else ""]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def run(self, host: str, what: str) -> dict[str, Any]:
        """What the receiver was sent by a run that nothing disturbs."""
        process = self.start(host, what, takes_over=host == "next")
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        (found,) = json.loads(said)
        return dict(found)

    def lose(self, host: str, what: str, step: str) -> None:
        """Kill a machine at a step; its disk is gone."""
        process = self.start(host, what, step)
        assert process.communicate(timeout=120)[0] == f"at {step}\n"
        assert process.returncode == -signal.SIGKILL
        shutil.rmtree(self.folder / host, ignore_errors=True)

    def _environment(self, host: str) -> dict[str, str]:
        return {**self._shared, "FORECACHE_HOME": str(self.folder / host)}


@pytest.fixture
def machines(tmp_path: Path, options: dict[str, str], there: Receiver) -> Machines:
    return Machines(tmp_path, options, there.url)


def test_a_machine_with_an_empty_home_sends_no_alert_again_and_sends_the_end_of_what_another_one_sent(
    machines: Machines, there: Receiver
) -> None:
    assert machines.run("one", "alerts")["notices"] == 2
    assert [machines.run(host, "alerts")["notices"] for host in ("one", "two")] == [0, 0]
    assert [alert.name for alert in read_noted_alerts(machines.settings("three"))] == ["churn"]
    assert [machines.run(host, "over")["notices"] for host in ("three", "one")] == [1, 0]
    states = [[group["state"] for group in each.content["groups"]] for each in there.posted]
    assert states == [["firing", "firing"], ["resolved"]]


def test_of_machines_that_look_at_once_each_alert_is_sent_by_one(machines: Machines, there: Receiver) -> None:
    runs = [machines.start(host, "many") for host in ("one", "two", "three")]
    assert [run.wait(240) for run in runs] == [0, 0, 0]
    machines.run("four", "many")
    occasions = [alert["occasion"] for each in there.posted for alert in each.content["alerts"]]
    assert sorted(occasions) == list("012345")


@pytest.mark.parametrize(("step", "sent"), [("noted", 1), ("made", 1), ("sent", 2), ("recorded", 1)])
def test_what_a_machine_that_vanished_was_sending_is_sent_by_another_one_with_the_same_id(
    machines: Machines, there: Receiver, step: str, sent: int
) -> None:
    machines.lose("lost", "alerts", step)
    machines.run("next", "alerts")
    assert len(there.posted) == sent
    assert len({each.content["id"] for each in there.posted}) == 1
    assert machines.run("third", "alerts")["notices"] == 0


def test_a_sender_that_stood_still_beyond_its_term_sends_nothing_when_it_goes_on(
    machines: Machines, there: Receiver
) -> None:
    slow = machines.start("slow", "alerts", "made", "SIGSTOP")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "at made\n"
    assert machines.run("next", "alerts")["notices"] == 2
    os.kill(slow.pid, signal.SIGCONT)
    (found,) = json.loads(slow.communicate(timeout=120)[0])
    assert (found["messages"], found["waiting"]) == (0, 0)
    assert len(there.posted) == 1


def test_lineage_is_sent_once_by_machines_at_once_and_goes_on_where_one_was_lost(
    machines: Machines, there: Receiver
) -> None:
    writer = machines.settings("writer")
    append_records(writer, list(stage_rows()))
    machines.lose("lost", "lineage", "noted")
    assert len(_ended_runs(there)) == 3
    runs = [machines.start(host, "lineage", takes_over=True) for host in ("one", "two")]
    assert [run.wait(120) for run in runs] == [0, 0]
    machines.run("three", "lineage")
    ended = _ended_runs(there)
    assert len(ended) == len(set(ended)) == len(recorded_facts(writer, since=EPOCH))
    assert machines.run("four", "lineage")["runs"] == 0


def _ended_runs(there: Receiver) -> list[str]:
    return [each.content["run"]["runId"] for each in there.posted if each.content["eventType"] == "COMPLETE"]


def test_requests_that_a_training_recorded_prove_a_release_on_another_machine(machines: Machines) -> None:
    record_requests(machines.settings("trained"), "payments", ['{"amount": 1.5}'])
    assert recorded_requests(machines.settings("releases"), "payments") == ['{"amount": 1.5}']
    assert recorded_requests(machines.settings("releases"), "other") == []


def test_an_extraction_whose_lease_another_machine_has_taken_over_lands_nothing(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = machines.settings("slow").model_copy(update={"landing": str(tmp_path / "landing")})
    columns, day = (Column("n", "bigint"), Column("at", "timestamp")), date(2026, 1, 1)
    source = Source("sales", columns, "at", start=day, extract=Query("shop", table="sales"))
    monkeypatch.setattr(extraction, "text_batches", lambda *_: iter([[("1", "2026-01-01T00:00:00Z")]]))

    def take_over(step: str) -> None:
        assert (take_over_lease(open_lake(settings)).name, step) == ("tables/landing_sales", "batch extracted")

    monkeypatch.setattr(extract_step, "on_step", take_over)
    with pytest.raises(LeaseLostError, match="could not be renewed|was lost: it was taken over by"):
        extraction.extract(settings, source, [day], now=datetime(2026, 1, 3, tzinfo=timezone.utc))
    assert list((tmp_path / "landing").rglob("*.parquet")) == []
