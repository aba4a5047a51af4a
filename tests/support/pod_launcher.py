"""A launcher that starts each run as a Kubernetes Job would: in a process of its own, with an empty home."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._cli.api import ExecuteRunArgs
from dagster._core.launcher import LaunchRunContext
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from resources.dagster_internals import CheckRunHealthResult, RunLauncher, WorkerStatus
from resources.own_runs import OwnRunHealth


class _Pods(RunLauncher, ConfigurableClass):
    supports_check_run_worker_health = True  # type: ignore[assignment]

    def __init__(self, folder: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._folder, self._inst_data = Path(folder), inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"folder": str}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Any:
        return cls(**config_value, inst_data=inst_data)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    def launch_run(self, context: LaunchRunContext) -> None:
        run, pod = context.dagster_run, self._folder / context.dagster_run.run_id
        pod.mkdir(parents=True)
        environment = {**os.environ, "FORECACHE_HOME": str(pod / "home"), "DAGSTER_HOME": str(pod)}
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref(), None).get_command_args()
        command = [sys.executable, "-m", *arguments]  # of which the first is "dagster"
        with (pod / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        (pod / "pid").write_text(str(process.pid))

    def terminate(self, run_id: str) -> bool:
        return False

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        try:
            is_there = psutil.Process(pod_pid(self._folder, run.run_id)).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            is_there = False
        return CheckRunHealthResult(WorkerStatus.RUNNING if is_there else WorkerStatus.FAILED, "as its process is")


class PodLauncher(OwnRunHealth, _Pods):
    """With the health of runs that their own process executes, as the launchers that are shipped."""


def pod_pid(folder: Path, run_id: str) -> int:
    return int((folder / run_id / "pid").read_text())
