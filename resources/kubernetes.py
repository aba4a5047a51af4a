"""A launcher that gives each run a Kubernetes Job of its own, whose pod may start with an empty disk.

FORECACHE_DAGSTER_LAUNCHER names it; its `config` is that of `dagster_k8s.K8sRunLauncher`, of which nothing is required:

    {"module": "resources.kubernetes", "class": "KubernetesRunLauncher",
     "config": {"job_namespace": "forecache", "service_account_name": "forecache-runs", "job_image": "..."}}
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_k8s import K8sRunLauncher

from resources.dagster_internals import CheckRunHealthResult, ConfigurableClassData, WorkerStatus
from resources.own_runs import OwnRunHealth

# Dagster's launcher requires it, and mounts nothing: a run's arguments hold the instance's configuration.
_UNUSED = "instance_config_map"


class KubernetesRunLauncher(OwnRunHealth, K8sRunLauncher):
    """Dagster's launcher of Kubernetes, which also reports the health of runs that their own process executes."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {name: field for name, field in super().config_type().items() if name != _UNUSED}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "KubernetesRunLauncher":
        return super().from_config_value(inst_data, {_UNUSED: "", **config_value})

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """The state of the run's Job. Run monitoring fails what is neither running nor successful.

        A Job that is not there was deleted, and its run is over. While Kubernetes does not answer, nothing is known,
        and the run goes on.
        """
        health = super().check_run_worker_health(run)
        if health.status != WorkerStatus.UNKNOWN or (health.msg or "").endswith("could not be found"):
            return health
        return CheckRunHealthResult(WorkerStatus.RUNNING, health.msg)
