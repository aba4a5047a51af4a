"""Dagster on a cluster: its webserver and daemon, and a run launcher that starts each run on a new machine.

It does what Dagster's launcher for Kubernetes does with a Job: one machine a run, which is gone when the run has ended.
"""

import os
import sys
from pathlib import Path

import yaml
from dagster import DagsterRun
from dagster._cli.api import ExecuteRunArgs
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus

from _cluster.control import Control
from forecache.base.settings import load_settings
from resources.dagster_internals import InstancePart
from resources.instance import ensure_instance
from resources.own_runs import OwnRunHealth

FOLDER_VARIABLE = "CLUSTER_FOLDER"
RUNS_AT_ONCE = 3


class _MachineLauncher(InstancePart, RunLauncher):
    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a machine that executes the run."""
        run = context.dagster_run
        assert run.job_code_origin is not None
        arguments = ExecuteRunArgs(
            job_origin=run.job_code_origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        name = machine_name(run.run_id)
        environment = {"DAGSTER_RUN_JOB_NAME": run.job_name}
        _control().start(name, arguments.get_command_args(), environment=environment)
        self._instance.report_engine_event(f"Started the machine {name}.", run, cls=self.__class__)

    def terminate(self, run_id: str) -> bool:
        """Kill the run's machine."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or _control().find(machine_name(run_id)) is None:
            return False
        self._instance.report_run_canceling(run)
        return _control().kill(machine_name(run_id))

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Look whether the run's machine still runs."""
        machine = _control().find(machine_name(run.run_id))
        if machine is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "It has no machine.")
        if machine["exit_code"] is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if machine["exit_code"] == 0:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"Its machine ended with {machine['exit_code']}.")


class MachineRunLauncher(OwnRunHealth, _MachineLauncher):
    """Starts each run on a new machine, and reports the health of runs that `forecache run` executes, too."""


def machine_name(run_id: str) -> str:
    """Name of the machine of a run."""
    return f"run-{run_id[:8]}"


def _control() -> Control:
    return Control(Path(os.environ[FOLDER_VARIABLE]))


def main() -> None:
    """Become Dagster's `webserver PORT` or `daemon`, with the instance of `forecache dev` but for this launcher."""
    role, *port = sys.argv[1:]
    written = ensure_instance(load_settings())
    home = written.with_name("dagster-control")
    home.mkdir(exist_ok=True)
    instance = yaml.safe_load((written / "dagster.yaml").read_text())
    instance["run_launcher"] = {"module": "_cluster.launcher", "class": MachineRunLauncher.__name__}
    instance["concurrency"] = {"runs": {"max_concurrent_runs": RUNS_AT_ONCE}}
    instance["run_monitoring"] = {"enabled": True, "start_timeout_seconds": 600, "poll_interval_seconds": 10}
    instance["run_retries"] = {"enabled": True, "max_retries": 5}
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    programs = Path(sys.executable).parent
    command = {
        "webserver": [programs / "dagster-webserver", "-h", "127.0.0.1", "-p", *port],
        "daemon": [programs / "dagster-daemon", "run"],
    }[role]
    words = [str(word) for word in [*command, "-w", written / "workspace.yaml"]]
    os.execve(words[0], words, {**os.environ, "DAGSTER_HOME": str(home)})


if __name__ == "__main__":
    main()
