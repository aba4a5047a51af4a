"""A backfill by several runs at once on PostgreSQL, each with an empty home and a lake in a bucket.

Dagster's servers are stopped and started meanwhile, and the process of a run is killed. `make prove-backfill` has 30
dates.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import httpx
import pyarrow as pa
import pytest
from backfilled_project import definitions as project
from free_ports import free_port
from pod_launcher import pod_pid
from store_services import minio_server, postgres_server
from waiting import wait_for

from forecache.base.settings import Settings, load_settings
from forecache.declare import AS_OF
from forecache.kit.delta.tables import open_table
from forecache.serve.store import open_store
from resources.instance import ensure_instance, prepare_tables, runner_instance

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]
ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
NUM_DATES = int(os.environ.get("BACKFILL_DATES", "4"))
DATES = [date(2026, 1, 1) + timedelta(days=number) for number in range(NUM_DATES)]
AT_ONCE = 3
LAUNCH = """
mutation Launch($what: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $what) { __typename
  ... on PythonError { message } ... on LaunchBackfillSuccess { backfillId } } }
"""
KEYS = [("spark", AT_ONCE), (f"published_{project.CHURN.name}", 1)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of the servers: a lake in a bucket, PostgreSQL, a launcher of pods, the folder of the store."""
    with minio_server(tmp_path / "minio", "cloud") as options, postgres_server(tmp_path / "pg", password="pw") as url:
        launcher = {"module": "pod_launcher", "class": "PodLauncher", "config": {"folder": str(tmp_path / "pods")}}
        for name, value in {
            "HOME": str(tmp_path / "servers"),
            "LAKE": "s3://cloud/lake",
            "STORE": str(tmp_path / "store"),
            "STORAGE_OPTIONS": json.dumps(options),
            "PROJECT": "backfilled_project",
            "DAGSTER_URI": url,
            "DAGSTER_RUNS": str(AT_ONCE),
            "DAGSTER_LAUNCHER": json.dumps(launcher),
        }.items():
            monkeypatch.setenv(f"FORECACHE_{name}", value)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        settings = load_settings()
        home = ensure_instance(settings)
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        prepare_tables(home)
        yield settings


@contextmanager
def servers(settings: Settings) -> Iterator[str]:
    """The webserver, whose URL this is, and the daemon, each in a process group of its own, which an interrupt ends."""
    port = free_port()
    workspace = ["-w", str(settings.dagster_home / "workspace.yaml")]
    web = [str(PROGRAMS / "dagster-webserver"), "-p", str(port), *workspace]
    commands = [web, [str(PROGRAMS / "dagster-daemon"), "run", *workspace]]
    with (settings.dagster_home / "servers.log").open("ab") as log:
        processes = [
            subprocess.Popen(
                ["env", "--default-signal=INT,QUIT", *command], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
            for command in commands
        ]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGINT)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(120)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def launch_backfill(url: str) -> None:
    """Launch it as the UI does: runs of `dagster job backfill` count as done as soon as they are queued."""
    repository = {"repositoryLocationName": "forecache", "repositoryName": "__repository__"}
    selector = {"partitionSetName": f"{project.JOB}_partition_set", "repositorySelector": repository}
    answer = httpx.post(
        f"{url}/graphql",
        json={"query": LAUNCH, "variables": {"what": {"selector": selector, "partitionNames": list(map(str, DATES))}}},
        timeout=300,
    ).json()
    assert answer["data"]["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/server_info", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Watched:
    """What is seen of the runs while the backfill goes on."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.most_at_once = 0

    def going_on(self) -> list[dg.DagsterRun]:
        runs = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        self.most_at_once = max(self.most_at_once, len(runs))
        return runs

    def dates_done(self) -> set[str]:
        runs = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        return {run.tags["dagster/partition"] for run in runs}

    def working(self) -> list[dg.DagsterRun]:
        """Runs that have ended a step."""
        return [run for run in self.going_on() if self.instance.get_run_stats(run.run_id).steps_succeeded]

    def wait(self, look: object, what: str, *, seconds: float = 1500) -> None:
        deadline = time.monotonic() + seconds
        while not look():  # type: ignore[operator]
            assert time.monotonic() < deadline, (
                f"{what}: {[(r.status.value, r.tags) for r in self.instance.get_runs()]}"
            )
            time.sleep(0.2)


def read_rows(settings: Settings, table: str) -> pa.Table:
    return open_table(settings, table).to_pyarrow_table().sort_by([(AS_OF, "ascending"), ("customer_id", "ascending")])


@pytest.mark.timeout(3600)
def test_dates_are_backfilled_by_runs_at_once_while_servers_restart_and_a_run_is_killed(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = cluster.dagster_home.parents[1] / "pods"
    hold = pods.with_name("hold")
    hold.touch()
    monkeypatch.setenv("BACKFILL_HOLD", str(hold))
    with dg.DagsterInstance.from_config(str(cluster.dagster_home)) as instance:
        seen = Watched(instance)
        with servers(cluster) as url:
            wait_for(lambda: answers(url), seconds=300)
            launch_backfill(url)
            # A daemon whose code location goes while it queues the runs of a backfill cancels them.
            seen.wait(lambda: len(instance.get_runs()) == NUM_DATES, "not all runs are queued")
            seen.wait(lambda: len(seen.working()) == AT_ONCE, "not as many are in their second step")
            killed = seen.working()[0]
            os.killpg(pod_pid(pods, killed.run_id), signal.SIGKILL)
        hold.unlink()
        with servers(cluster):
            seen.wait(lambda: len(seen.dates_done()) >= NUM_DATES // 4, "no date is done")
        with servers(cluster):
            seen.wait(lambda: not seen.going_on() and len(seen.dates_done()) == NUM_DATES, "not all are done")

        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert [run.run_id for run in failed] == [killed.run_id]
        [again] = [run for run in instance.get_runs() if run.parent_run_id]
        assert (again.parent_run_id, again.status) == (killed.run_id, dg.DagsterRunStatus.SUCCESS)
        assert len(instance.get_runs()) == NUM_DATES + 1
        assert seen.most_at_once == AT_ONCE
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
        assert limits == dict(KEYS)
        log_key = [again.run_id, "compute_logs"]
        printed = [
            instance.compute_log_manager.get_log_data([*log_key, event.logs_captured_data.file_key]).stdout
            for event in (entry.dagster_event for entry in instance.all_logs(again.run_id))
            if event is not None and event.event_type_value == "LOGS_CAPTURED"
        ]
        assert printed
        assert all(b"writing" in text for text in printed if text), "a machine without the pod's disk reads its output"

    one_folder = {"lake": "", "store": "", "storage_options": {}, "dagster_uri": "", "dagster_launcher": {}}
    alone = load_settings(home=pods / "alone", **one_folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LAKE", "STORE", "STORAGE_OPTIONS", "DAGSTER_URI", "DAGSTER_LAUNCHER"):
            patch.delenv(f"FORECACHE_{name}")
        patch.setenv("FORECACHE_HOME", str(alone.home_path))
        job = project.defs().resolve_job_def(project.JOB)
        with runner_instance(alone) as instance:
            for day in DATES:
                assert job.execute_in_process(instance=instance, partition_key=str(day)).success
    for table in (project.FEATURES, project.PREDICTIONS):
        assert read_rows(cluster, table).equals(read_rows(alone, table))
    versions = open_store(cluster, project.CHURN.name).versions()
    assert [each.as_of for each in versions] == sorted(each.as_of for each in versions)
    ours, theirs = (open_store(each, project.CHURN.name).current() for each in (cluster, alone))
    assert ours is not None
    assert theirs is not None
    assert (ours.as_of, ours.rows, ours.content_hash) == (str(DATES[-1]), theirs.rows, theirs.content_hash)
