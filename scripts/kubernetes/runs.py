"""The nights of a trial: by run pods, one of them killed, by a CronJob, and outside the cluster for comparison."""

import json
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import Any

from trial import PIPELINE, Trial, TrialError, get_settings

NIGHTS = ("2026-03-29", "2026-03-30", "2026-03-31")
"""The newest as-of dates of examples/fraud: of the main job, of the run whose pod is killed, of the CronJob."""
JOB = f"{PIPELINE}_nightly"
LAUNCH = """mutation Launch($what: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $what) { __typename
  ... on PythonError { message } ... on LaunchBackfillSuccess { backfillId } } }"""
RUNS = """query Runs($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {
  runId status parentRunId stats { ... on RunStatsSnapshot { stepsSucceeded } } } } } }"""
COMPARE = """
import json, sys
from forecache import load_settings, open_dataset, open_table
from forecache.serve.store import open_store
pods = load_settings()
root = pods.lake.rpartition("/")[0].rpartition("/")[0]
alone = load_settings(lake=f"{root}/alone/lake", store_remote=f"{root}/alone/store", home=pods.home_path / "alone")
columns = json.loads(sys.argv[2])
for table, keys in columns.items():
    ours, theirs = (open_dataset(open_table(each, table)).to_table() for each in (pods, alone))
    names = [name for name in theirs.column_names if name not in json.loads(sys.argv[3])]
    ours, theirs = (each.select(names).sort_by([(key, "ascending") for key in keys]) for each in (ours, theirs))
    if not ours.equals(theirs):
        raise SystemExit(f"{table} differs: {ours.num_rows} and {theirs.num_rows} rows")
    print(f"{table} {ours.num_rows}")
"""
TABLES = {
    "raw_payments": ["payment_id"],
    "features_spending": ["as_of", "user_id"],
    f"predictions_{PIPELINE}": ["as_of", "user_id"],
}
"""The tables of a night, and what their rows are sorted by."""
OF_A_RUN = ("scored_at", "run_id", "ingested_at", "feature_version")
"""Columns that say when a row was made, by what, and from which version of a table."""


def describe_place(trial: Trial, name: str) -> dict[str, str]:
    """Settings of a machine outside the cluster, whose lake and store lie below the bucket's folder of that name."""
    places = {"LAKE": f"{name}/lake", "LANDING": "prod/landing", "STORE_REMOTE": f"{name}/store"}
    env = {f"FORECACHE_{key}": f"s3://forecache/{place}" for key, place in places.items()} | get_settings(trial)
    env |= {"FORECACHE_HOME": str(trial.folder / name), "FORECACHE_PROJECT": "fraud", "PYTHONPATH": "examples/fraud"}
    for shared in ("DAGSTER", "MLFLOW"):  # a machine's own
        del env[f"FORECACHE_{shared}_URI"]
    return env


def land_files(trial: Trial) -> None:
    modules = "from forecache.base import settings; from forecache.plugins.new_project import demo_data"
    command = f"{modules}; demo_data.land_demo_data(settings.load_settings())"
    trial.node(sys.executable, "-c", command, env=describe_place(trial, "prod"))
    trial.write("files of 90 days landed in the bucket")


def do_nights_alone(trial: Trial) -> None:
    """Do the nights in one process outside the cluster, in a lake of its own, to compare the pods' tables with."""
    began, nights = time.monotonic(), f"{NIGHTS[0]}..{NIGHTS[-1]}"
    command = [sys.executable, "-m", "forecache.cli.main", "run", PIPELINE, "--dates", nights]
    trial.node(*command, env=describe_place(trial, "alone"))
    trial.write(
        f"three nights by one process outside the cluster, to compare with, in {time.monotonic() - began:.0f} s"
    )


def ask_dagster(trial: Trial, query: str, **variables: object) -> dict[str, Any]:
    url = f"http://{trial.get_service_address('forecache-webserver')}/graphql"
    body = json.dumps({"query": query, "variables": variables})
    command = ["curl", "--silent", "--show-error", "--max-time", "300", "--header", "Content-Type: application/json"]
    answer = json.loads(trial.node(*command, "--data", body, url))
    if "errors" in answer:
        raise TrialError(f"Dagster answers {answer['errors']}")
    [data] = answer["data"].values()
    return dict(data)


def launch_night(trial: Trial, night: str) -> None:
    """Launch the main job as Dagster's UI does."""
    repository = {"repositoryLocationName": "forecache", "repositoryName": "__repository__"}
    selector = {"partitionSetName": f"{JOB}_partition_set", "repositorySelector": repository}
    answer = ask_dagster(trial, LAUNCH, what={"selector": selector, "partitionNames": [night]})
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise TrialError(f"{JOB} of {night} was not launched: {answer}")


def list_runs(trial: Trial, night: str) -> list[dict[str, Any]]:
    """The runs of an as-of date, the first one first."""
    tags = [{"key": "dagster/asset_partition_range_start", "value": night}]
    return list(reversed(ask_dagster(trial, RUNS, filter={"tags": tags})["results"]))


def wait_for_run(trial: Trial, night: str) -> None:
    """Wait until the newest run of a date has succeeded; TrialError if one fails that Dagster does not run again."""

    def is_done() -> bool:
        runs = list_runs(trial, night)
        if len([run for run in runs if run["status"] == "FAILURE"]) > 1:
            raise TrialError(f"the runs of {night} failed: {runs}")
        return bool(runs) and runs[-1]["status"] == "SUCCESS"

    trial.wait_until(1500, f"the run of {night}", is_done)


def run_main_job(trial: Trial) -> None:
    began = time.monotonic()
    trial.install("--set", "dagster.enabled=true,reader.enabled=false")
    trial.write(
        f"helm install with Dagster: webserver, daemon and code location ready in {time.monotonic() - began:.0f} s"
    )
    began = time.monotonic()
    launch_night(trial, NIGHTS[0])
    wait_for_run(trial, NIGHTS[0])
    [run] = list_runs(trial, NIGHTS[0])
    trial.write(f"main job of {NIGHTS[0]} by a run pod: {run['stats']['stepsSucceeded']} steps in {seconds(began)}")


def kill_run_pod(trial: Trial) -> None:
    """Kill the process of a run's pod by SIGKILL once it has ended a step; Dagster has to run it again by itself."""
    began, night = time.monotonic(), NIGHTS[1]
    launch_night(trial, night)

    def find_working() -> list[str]:
        runs = [run for run in list_runs(trial, night) if run["status"] == "STARTED"]
        return [run["runId"] for run in runs if run["stats"].get("stepsSucceeded")]

    [killed] = trial.wait_until(900, "the first step of a run", find_working)
    trial.node("pkill", "--signal", "KILL", "--full", killed)  # the only command on the node with the run's number
    at = time.monotonic()

    def has_failed() -> bool:
        return next(run["status"] for run in list_runs(trial, night) if run["runId"] == killed) == "FAILURE"

    trial.wait_until(300, "the end of the run whose pod was killed", has_failed)
    trial.write(
        f"the pod of the run of {night} was killed after a step: the run is marked as failed after {seconds(at)}"
    )
    wait_for_run(trial, night)
    first, *again = list_runs(trial, night)
    if [run["parentRunId"] for run in again] != [first["runId"]]:
        raise TrialError(f"not one run followed the killed one: {again}")
    trial.write(f"Dagster ran it again in another pod: done {seconds(began)} after the launch")


def run_by_cron_job(trial: Trial) -> None:
    """Have the chart's nightly CronJob do a night at a moment that its schedule names, while readers answer."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=100)
    began = time.monotonic()
    trial.install("--set", f"nightly.schedule={moment:%M %H %d %m} *")
    jobs = ["get", "jobs", "--selector", "app.kubernetes.io/component=nightly", "--output"]
    named = "jsonpath={range .items[*]}{.metadata.ownerReferences[0].kind}/{.status.succeeded} {end}"
    owned = [*jobs, "jsonpath={.items[*].metadata.name}"]
    trial.wait_until(300, "a job of the CronJob", lambda: trial.kubectl(*owned))
    trial.write(f"the CronJob started a job by its schedule after {seconds(began)}")
    trial.wait_until(1500, "the job of the CronJob", lambda: "CronJob/1" in trial.kubectl(*jobs, named))
    trial.wait_until(120, f"readers with the night of {NIGHTS[2]}", lambda: trial.ask_reader("0")["as_of"] == NIGHTS[2])
    trial.write(f"it did the night of {NIGHTS[2]}, and readers answer from it: {seconds(began)}")


def compare_with_alone(trial: Trial) -> None:
    arguments = [json.dumps(value) for value in (TABLES, OF_A_RUN)]
    said = trial.node(sys.executable, "-c", COMPARE, "compare", *arguments, env=describe_place(trial, "prod"))
    rows = ", ".join(said.splitlines())
    trial.write(f"the tables of the three nights equal those of the undisturbed process, row by row: {rows}")


def seconds(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"
