"""Runs that `forecache run` executes by itself, as Dagster's run monitoring and the next `forecache run` judge them."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import RunRecord
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from waiting import eventually

from forecache.base.settings import load_settings
from forecache.kit.lease import TERM_S
from forecache.kit.process.identity import identify_process
from resources import own_runs
from resources.instance import ensure_instance, prepare_tables
from resources.own_runs import HEARTBEAT_TAG, PROCESS_TAG, RENEW_S, SILENT_S, close_abandoned_runs, process_tags

SCRIPT = Path(__file__).parent.parent / "support" / "own_run.py"
STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An instance with the configuration that is shipped."""
    home = ensure_instance(load_settings(home=tmp_path))
    prepare_tables(home)
    return home


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has watched every other one since its heartbeat."""
    monkeypatch.setattr(own_runs, "_watch", lambda tags: time.time() - float(tags[HEARTBEAT_TAG]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds go by, of which the processes of other machines know as well."""
    now = {name: getattr(time, name)() for name in ("time", "monotonic")}

    def advance(seconds: float) -> None:
        for name in now:
            now[name] += seconds

    for name in now:
        monkeypatch.setattr(own_runs.time, name, lambda name=name: now[name])
    return advance


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@contextmanager
def own_run(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that executes a run of its own."""
    started = home / "started"
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(home), str(started)])
    try:
        assert eventually(lambda: started.is_file() or process.poll() is not None)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def monitored(instance: dg.DagsterInstance) -> dg.DagsterRunStatus:
    """The status of the only run after Dagster's run monitoring has looked at it."""
    [entry] = instance.get_run_records()
    monitor_started_run(instance, cast("Any", None), cast("RunRecord", entry), logging.getLogger("test"))
    return instance.get_run_records()[0].dagster_run.status


def started_elsewhere(instance: dg.DagsterInstance, *, silent_s: float) -> None:
    """A run of another machine that renewed its heartbeat so long ago."""
    tags = {PROCESS_TAG: "another-pod/4026531836 17", HEARTBEAT_TAG: str(time.time() - silent_s)}

    @dg.job
    def nightly() -> None: ...

    run = instance.create_run_for_job(nightly, tags=tags, status=STARTED)
    assert instance.get_run_by_id(run.run_id) is not None


def test_monitoring_leaves_a_run_that_goes_on_and_fails_it_once_its_process_was_killed(
    home: Path, instance: dg.DagsterInstance
) -> None:
    assert instance.run_monitoring_enabled
    with own_run(home) as process:
        assert monitored(instance) == STARTED
        close_abandoned_runs(instance)
        assert monitored(instance) == STARTED
        process.kill()
        process.wait()
        assert monitored(instance) == FAILURE


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(("silent_s", "status"), [(0.0, STARTED), (SILENT_S / 2, STARTED), (SILENT_S + 5, FAILURE)])
def test_a_run_of_another_machine_goes_on_until_its_heartbeat_stopped(
    instance: dg.DagsterInstance, silent_s: float, status: dg.DagsterRunStatus
) -> None:
    started_elsewhere(instance, silent_s=silent_s)
    assert monitored(instance) == status


@pytest.mark.usefixtures("watched")
def test_the_next_run_closes_those_of_other_machines_whose_heartbeat_stopped(instance: dg.DagsterInstance) -> None:
    started_elsewhere(instance, silent_s=0.0)
    started_elsewhere(instance, silent_s=SILENT_S + 5)
    close_abandoned_runs(instance)
    assert sorted(run.status.value for run in instance.get_runs()) == ["FAILURE", "STARTED"]


def heartbeat_elsewhere(late_s: float = 0.0) -> dict[str, str]:
    """Tags of a run of another machine, whose clock is late, that renews its heartbeat now."""
    return {PROCESS_TAG: "another-pod/4026531836 17", HEARTBEAT_TAG: f"{own_runs.time.time() - late_s:.0f}"}


def test_after_an_outage_of_the_database_all_runs_have_time_to_renew_their_heartbeats(
    clock: Callable[[float], None],
) -> None:
    before = heartbeat_elsewhere()
    assert not own_runs.is_process_gone(before)
    clock(150)  # nobody could renew, and nobody could look
    for _ in range(3):
        assert not own_runs.is_process_gone(before)
        clock(8)
    after = heartbeat_elsewhere()
    assert not own_runs.is_process_gone(after)


@pytest.mark.parametrize("late_s", [-3600, 0, 3600])
def test_a_killed_process_of_another_machine_is_seen_within_the_term_of_a_lease_and_a_running_one_never(
    clock: Callable[[float], None], late_s: float
) -> None:
    for _ in range(60):
        assert not own_runs.is_process_gone(heartbeat_elsewhere(late_s)), "it renews"
        clock(RENEW_S)
    last, waited_s = heartbeat_elsewhere(late_s), 0.0
    clock(RENEW_S)  # this process looks as often as it renews its own, and just looked before that renewal
    while not own_runs.is_process_gone(last):
        clock(RENEW_S)
        waited_s += RENEW_S
    assert waited_s + RENEW_S <= TERM_S


def test_a_run_that_waits_for_a_place_says_who_has_it(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("spark", 1)
    started_elsewhere(instance, silent_s=430)
    [holder] = instance.get_runs()
    assert storage.claim_concurrency_slot("spark", holder.run_id, "score").is_claimed
    assert list(own_runs.find_waits(instance, "waiting")) == []
    assert not storage.claim_concurrency_slot("spark", "waiting", "score").is_claimed
    [message] = own_runs.find_waits(instance, "waiting")
    assert message.startswith("waiting for a place in the pool spark, taken by run ")
    assert f"{holder.run_id[:8]} (process 17 on another-pod, silent for 4" in message
    assert list(own_runs.find_waits(instance, holder.run_id)) == []


def test_a_run_that_ended_well_after_the_runs_were_listed_is_not_closed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_elsewhere(instance, silent_s=0)
    [run] = instance.get_runs()

    def ends_meanwhile(_: object) -> bool:
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id, logging.INFO
        )
        return True

    monkeypatch.setattr(own_runs, "is_process_gone", ends_meanwhile)
    close_abandoned_runs(instance)
    assert instance.get_runs()[0].status == dg.DagsterRunStatus.SUCCESS


def test_the_heartbeat_is_renewed_while_the_run_is_executed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.job
    def nightly() -> None: ...

    def heartbeat() -> float:
        return float(instance.get_runs()[0].tags[HEARTBEAT_TAG])

    monkeypatch.setattr(own_runs, "RENEW_S", 0.02)
    run = instance.create_run_for_job(nightly, tags={**process_tags(), HEARTBEAT_TAG: "0"}, status=STARTED)
    with own_runs.renew_heartbeat(instance, run.run_id):
        assert eventually(lambda: heartbeat() > 0)


def test_a_process_number_that_was_given_again_is_another_process(instance: dg.DagsterInstance) -> None:
    assert not own_runs.is_process_gone(process_tags())
    earlier = replace(identify_process(), started="1").to_text()
    assert own_runs.is_process_gone({**process_tags(), PROCESS_TAG: earlier}), "this process began later"
    assert not own_runs.is_process_gone({}), "a run of a launcher"


def test_a_re_execution_of_a_killed_run_belongs_to_its_launcher_though_it_has_its_tags(
    instance: dg.DagsterInstance,
) -> None:
    @dg.job
    def nightly() -> None: ...

    gone = {**process_tags(), HEARTBEAT_TAG: "1000", "dagster/parent_run_id": "the killed one"}
    instance.create_run_for_job(nightly, tags=gone, status=STARTED)
    assert monitored(instance) == STARTED
    close_abandoned_runs(instance)
    assert instance.get_runs()[0].status == STARTED


def test_dagster_retries_no_run_of_a_process_that_its_caller_starts_again() -> None:
    assert process_tags()["dagster/max_retries"] == "0"


@pytest.mark.usefixtures("watched")
def test_the_next_run_frees_the_places_in_pools_that_a_killed_run_left_taken(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("training", 1)
    started_elsewhere(instance, silent_s=SILENT_S + 5)
    [killed] = instance.get_runs()
    assert storage.claim_concurrency_slot("training", killed.run_id, "candidate").is_claimed
    assert not storage.claim_concurrency_slot("training", "another", "candidate").is_claimed
    close_abandoned_runs(instance)
    assert storage.claim_concurrency_slot("training", "another", "candidate").is_claimed


def test_a_run_of_another_process_is_not_reported_as_being_canceled_where_nothing_cancels_it(
    instance: dg.DagsterInstance,
) -> None:
    started_elsewhere(instance, silent_s=0)
    [run] = instance.get_runs()
    assert not instance.run_launcher.terminate(run.run_id)
    assert instance.get_runs()[0].status == STARTED
    assert any("Process 17 on another-pod executes this run" in str(entry) for entry in instance.all_logs(run.run_id))
