"""The launcher of Kubernetes without a cluster: what run monitoring hears of a run."""

import time
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from resources import own_runs
from resources.kubernetes import KubernetesRunLauncher
from resources.own_runs import HEARTBEAT_TAG, PROCESS_TAG, SILENT_S


class Cluster:
    """A client of Kubernetes that knows the state of one Job."""

    def __init__(self, status: Any = None, error: Exception | None = None) -> None:
        self.status, self.error = status, error

    def get_job_status(self, **_: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.status


def job(active: int = 0, failed: int = 0, succeeded: int = 0) -> SimpleNamespace:
    return SimpleNamespace(active=active, failed=failed, succeeded=succeeded)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> KubernetesRunLauncher:
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
    config = {"service_account_name": "runs", "job_namespace": "forecache", "load_incluster_config": False}
    built = KubernetesRunLauncher.from_config_value(None, {**config, "dagster_home": "/home/dagster"})
    monkeypatch.setattr(built, "_get_resume_attempt_number", lambda run: None)
    return built


def health(launcher: KubernetesRunLauncher, cluster: Cluster, **tags: str) -> WorkerStatus:
    launcher._api_client = cluster
    run = dg.DagsterRun(job_name="churn_nightly", run_id="b4e4b1a8", status=dg.DagsterRunStatus.STARTED, tags=tags)
    return launcher.check_run_worker_health(run).status


@pytest.mark.parametrize(
    ("cluster", "status"),
    [
        (Cluster(job(active=1)), WorkerStatus.RUNNING),
        (Cluster(job(failed=1)), WorkerStatus.FAILED),
        (Cluster(error=ConnectionError("no route to the API server")), WorkerStatus.RUNNING),
        (Cluster(None), WorkerStatus.UNKNOWN),
    ],
    ids=["its pod runs", "its pod was killed", "nobody answers", "its job was deleted"],
)
def test_a_run_with_a_job_is_what_its_job_is(
    launcher: KubernetesRunLauncher, cluster: Cluster, status: WorkerStatus
) -> None:
    assert health(launcher, cluster) == status


@pytest.mark.parametrize(("silent_s", "status"), [(0, WorkerStatus.RUNNING), (SILENT_S + 5, WorkerStatus.FAILED)])
def test_a_run_of_forecache_run_is_no_ghost_and_no_false_failure(
    launcher: KubernetesRunLauncher, silent_s: float, status: WorkerStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_runs, "_watch", lambda tags: time.time() - float(tags[HEARTBEAT_TAG]))
    tags = {PROCESS_TAG: "another-pod/4026531836 17", HEARTBEAT_TAG: str(time.time() - silent_s)}
    assert health(launcher, Cluster(None), **tags) == status


def test_its_configuration_asks_for_no_config_map(launcher: KubernetesRunLauncher) -> None:
    assert "instance_config_map" not in KubernetesRunLauncher.config_type()
    assert "job_image" in KubernetesRunLauncher.config_type()
