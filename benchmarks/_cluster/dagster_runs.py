"""Runs of Dagster's jobs on a cluster, asked for over GraphQL as its UI does."""

import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from typing import Any

_LAUNCH = """mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUNS = """query Runs($filter: RunsFilter!) { runsOrError(filter: $filter) {
    __typename ... on Runs { results { runId status } } ... on PythonError { message } } }"""
_PARTITION = "dagster/partition"
_OVER = {"SUCCESS", "FAILURE", "CANCELED"}
_LOOK_S = 2.0


class DagsterRuns:
    """The runs of a cluster's Dagster, whose webserver and daemon may be away for a while."""

    def __init__(self, address: str) -> None:
        """Take the address of the webserver."""
        self._address = address

    def insist(self, job: str, night: date) -> Iterator[str]:
        """Start a job for an as-of date unless a run of it is under way, again and again until one has succeeded.

        Yields the id of each run that has failed, and "" while it waits.
        """
        failed: set[str] = set()
        while True:
            try:
                runs = self._find_runs(job, night)
                if "SUCCESS" in runs.values():
                    return
                for run_id in [run_id for run_id, status in runs.items() if status in _OVER and run_id not in failed]:
                    failed.add(run_id)
                    yield run_id
                if all(status in _OVER for status in runs.values()):
                    self._launch(job, night)
            except OSError:  # the webserver is being replaced
                pass
            yield ""
            time.sleep(_LOOK_S)

    def _find_runs(self, job: str, night: date) -> dict[str, str]:
        given = {"pipelineName": job, "tags": [{"key": _PARTITION, "value": str(night)}]}
        found = self._ask(_RUNS, {"filter": given})["runsOrError"]
        return {run["runId"]: run["status"] for run in found["results"]}

    def _launch(self, job: str, night: date) -> None:
        selector = {
            "jobName": job,
            "repositoryName": "__repository__",
            "repositoryLocationName": "forecache",
        }
        tags = [{"key": _PARTITION, "value": str(night)}]
        given = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        done = self._ask(_LAUNCH, {"params": given})["launchRun"]
        if done["__typename"] != "LaunchRunSuccess":
            raise ValueError(f"Dagster does not start {job} for {night}: {done}")

    def _ask(self, query: str, variables: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self._address}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["data"]
