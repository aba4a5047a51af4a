"""Executes a run in its own process until it is killed, as `forecache run` does: DAGSTER_HOME, a file to write."""

import sys
import time
from pathlib import Path

import dagster as dg

from resources.dagster_internals import InMemoryJob, execute_run_iterator
from resources.own_runs import process_tags, renew_heartbeat


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    @dg.op
    def wait() -> None:
        Path(sys.argv[2]).write_text("started")
        time.sleep(600)

    wait()


if __name__ == "__main__":
    with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
        run = instance.create_run_for_job(waiting, tags=process_tags())
        with renew_heartbeat(instance, run.run_id):
            list(execute_run_iterator(InMemoryJob(waiting), run, instance))
