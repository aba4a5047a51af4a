"""OpenLineage events of recorded facts: what they say, valid by the official schemas and client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lineage_sample import JOBS, NIGHTS, RUN, ends, events_in, plain, versions, with_file, write_lake
from openlineage_valid import as_client_has_it, facets_of, require_valid

from assets.stage import RunStep, explain_errors
from forecache.base.errors import InputError
from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.lineage.datasets import namespace_and_name
from forecache.plugins.lineage.emit import EmitResult, emit_new


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return write_lake(tmp_path / "home")


def test_every_stage_from_landing_to_store_is_told_with_what_it_read_and_made(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    assert emit_new(settings, job_names={RUN: "churn_nightly"}) == [EmitResult("file", len(JOBS) + 1)]
    events = events_in(settings)
    told = {name: (versions(event["inputs"]), versions(event["outputs"])) for name, event in ends(events).items()}
    assert told.pop("publish.churn")[1] == [("churn", "1")]
    assert told == JOBS
    for event in events:
        require_valid(event)
        assert plain(as_client_has_it(event)) == plain(event)
    starts = {event["run"]["runId"]: event for event in events if event["eventType"] == "START"}
    assert len(starts) == len(ends(events)) == len(events) / 2
    for event in ends(events).values():
        assert starts[event["run"]["runId"]]["eventTime"] <= event["eventTime"]


def test_events_say_schema_counts_quality_parent_and_code(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings, job_names={RUN: "churn_nightly"})
    told = ends(events_in(settings))
    features = told["features.churn"]
    (made,) = features["outputs"]
    assert (made["namespace"], made["name"]) == ("file", f"{settings.lake_uri}/features_churn")
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 30
    assert [field["name"] for field in made["facets"]["schema"]["fields"]] == [
        "customer_id",
        "as_of",
        "churn_probability",
    ]
    run = features["run"]["facets"]
    assert run["parent"]["run"] == {"runId": RUN}
    assert run["parent"]["job"] == {"namespace": "shop", "name": "churn_nightly"}
    assert run["nominalTime"]["nominalStartTime"] == "2026-01-01T00:00:00.000000Z"
    assert run["nominalTime"]["nominalEndTime"] == "2026-01-04T00:00:00.000000Z"
    assert run["forecache_stage"]["nights"] == [night.isoformat() for night in NIGHTS]
    code = features["job"]["facets"]["sourceCodeLocation"]
    assert (code["url"], code["version"]) == ("https://example.org/shop", run["forecache_stage"]["code_version"])
    (judged,) = told["check.raw_orders"]["inputs"]
    assert judged["inputFacets"]["dataQualityMetrics"]["rowCount"] == 7
    assert [
        (each["assertion"], each.get("column"), each["success"], each["severity"])
        for each in judged["inputFacets"]["dataQualityAssertions"]["assertions"]
    ] == [
        ("expect_column_values_to_not_be_null", "customer", True, "error"),
        ("expect_table_row_count_to_be_between", None, False, "warn"),
    ]
    (stock,) = [each for each in told["training_set.churn"]["inputs"] if each["name"] == "stock"]
    assert stock["namespace"] == "s3://bucket"
    (stored,) = told["publish.churn"]["outputs"]
    lineage = stored["facets"]["columnLineage"]["fields"]
    assert lineage["churn_probability"]["inputFields"][0]["field"] == "churn_probability"
    assert told["mail.letters"]["run"]["facets"]["forecache_stage"]["details"] == {"accepted": 1, "refused": 1}
    # A run id that is no UUID becomes one.
    assert told["release.search"]["run"]["facets"]["parent"]["run"]["runId"] != "by hand"


def failing(settings: Settings, pipeline: Any, *, run_id: str, progress: Progress) -> StageResult:
    append_records(
        settings, [StageRecord("features", pipeline.name, NIGHTS[0], "x", "features_churn", 0, 1, 0.1, run_id=run_id)]
    )
    raise InputError("As-of date 2026-01-02 is empty.", remedy="Land a file.")


class Declared:
    name = "churn"


def test_a_stage_that_fails_in_a_run_is_told_with_its_reason_and_what_it_did_before(
    home: Settings, tmp_path: Path
) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    before = len(events_in(settings))
    failing.__name__ = "build_features"

    @dg.op
    @explain_errors
    def work(context: dg.OpExecutionContext) -> Iterator[Any]:
        RunStep(context, settings).run_stage(failing, settings, Declared())
        yield dg.Output(None)

    @dg.job
    def churn_nightly() -> None:
        work()

    result = churn_nightly.execute_in_process(raise_on_error=False)
    assert not result.success
    start, fail, done_start, done = events_in(settings)[before:]
    for event in (start, fail, done_start, done):
        require_valid(event)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["job"]["name"] == "features.churn"
    assert fail["run"]["facets"]["errorMessage"]["message"] == "As-of date 2026-01-02 is empty. Land a file."
    assert fail["run"]["facets"]["parent"]["job"]["name"] == "churn_nightly"
    assert fail["run"]["facets"]["parent"]["run"]["runId"] == result.run_id
    assert (done["eventType"], done["job"]["name"]) == ("COMPLETE", "features.churn")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("/data/lake/raw", ("file", "/data/lake/raw")),
        ("file:///data/lake/raw", ("file", "/data/lake/raw")),
        ("s3://bucket/lake/raw", ("s3://bucket", "lake/raw")),
        ("s3a://bucket/lake/raw", ("s3://bucket", "lake/raw")),
        ("gs://bucket/lake/raw", ("gs://bucket", "lake/raw")),
        ("abfss://box@account.dfs.core.windows.net/lake", ("abfss://box@account.dfs.core.windows.net", "lake")),
    ],
)
def test_datasets_are_named_by_openlineages_conventions(uri: str, named: tuple[str, str]) -> None:
    assert namespace_and_name(uri) == named


def test_every_facet_names_the_schema_that_it_was_validated_with(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    names = {name for event in events_in(settings) for name, _ in facets_of(event)}
    assert names == {
        *("columnLineage", "dataQualityAssertions", "dataQualityMetrics", "datasetType", "forecache_stage", "jobType"),
        *("nominalTime", "outputStatistics", "parent", "processing_engine", "schema", "sourceCodeLocation", "storage"),
        *("symlinks", "version"),
    }
