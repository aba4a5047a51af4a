"""OpenLineage's events of facts: https://openlineage.io/spec/2-0-2/OpenLineage.json and its facets.

They are plain JSON, which tests hold to the official schemas and to the classes of OpenLineage's client. Made of these
classes (version 1.54) the events were the same but for empty members, at 90 lines more. The client's import takes 0.5 s
of CPU in each process that sends, and its nine packages would be an extra that lineage does not need now.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta, timezone
from functools import cache
from typing import Any

from forecache.base.settings import Settings
from forecache.plugins.lineage.fact import Dataset, Fact, parent_run_id

PRODUCER = "https://pypi.org/project/forecache"
_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
OWN_FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"
_VERSIONS = {
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "dataQualityAssertions": "1-1-0/DataQualityAssertionsDatasetFacet",
    "dataQualityMetrics": "1-0-3/DataQualityMetricsInputDatasetFacet",
    "datasetType": "1-0-1/DatasetTypeDatasetFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "nominalTime": "1-0-1/NominalTimeRunFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "parent": "1-2-0/ParentRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "sourceCodeLocation": "1-1-0/SourceCodeLocationJobFacet",
    "storage": "1-0-1/StorageDatasetFacet",
    "symlinks": "1-0-1/SymlinksDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
}
_OF_INPUTS = ("dataQualityAssertions", "dataQualityMetrics")
"""Facets of a dataset as the run read it."""
UNKNOWN_JOB = "run"
"""Job name of a parent run whose job is not known."""


def events_of(settings: Settings, fact: Fact, *, job_names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The beginning and the end of the run that the fact is about.

    Args:
        job_names: Name of the orchestrator's job by its run id.
    """
    run: dict[str, Any] = {
        "runId": fact.event_run_id(settings.lake_uri),
        "facets": _run_facets(settings, fact, job_names),
    }
    job = {"namespace": namespace(settings), "name": fact.job, "facets": _job_facets(settings, fact)}
    inputs = [dataset_of(each, of="input") for each in fact.inputs]
    yield run_event("START", fact.started_at, run, job, inputs, [])
    if fact.error:
        error = facet("errorMessage", {"message": fact.error, "programmingLanguage": "PYTHON"})
        failed = {**run, "facets": {**run["facets"], "errorMessage": error}}
        yield run_event("FAIL", fact.ended_at, failed, job, inputs, [])
        return
    outputs = [dataset_of(each, of="output") for each in fact.outputs]
    yield run_event("COMPLETE", fact.ended_at, run, job, inputs, outputs)


def namespace(settings: Settings) -> str:
    return settings.openlineage_namespace or settings.project


def run_event(
    kind: str,
    at: datetime,
    run: Mapping[str, Any],
    job: Mapping[str, Any],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
) -> dict[str, Any]:
    """An OpenLineage event of a type such as "START"."""
    return {
        "eventType": kind,
        "eventTime": moment(at),
        "run": run,
        "job": job,
        "inputs": inputs,
        "outputs": outputs,
        "producer": PRODUCER,
        "schemaURL": _EVENT,
    }


def _run_facets(settings: Settings, fact: Fact, job_names: Mapping[str, str]) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "processing_engine": facet("processing_engine", {"name": "forecache", "version": package_version()})
    }
    if fact.run_id:
        job = {"namespace": namespace(settings), "name": job_names.get(fact.run_id, UNKNOWN_JOB)}
        facets["parent"] = facet("parent", {"run": {"runId": parent_run_id(fact.run_id)}, "job": job})
    if fact.nights:
        first = datetime.combine(fact.nights[0], time(), timezone.utc)
        end = datetime.combine(fact.nights[-1] + timedelta(days=1), time(), timezone.utc)
        times = {"nominalStartTime": moment(first), "nominalEndTime": moment(end)}
        facets["nominalTime"] = facet("nominalTime", times)
    recorded = {
        "stage": fact.stage,
        "subject": fact.subject,
        "source": fact.source,
        "code_version": fact.code_version,
        "nights": [night.isoformat() for night in fact.nights],
        "details": dict(fact.details),
    }
    facets["forecache_stage"] = {"_producer": PRODUCER, "_schemaURL": OWN_FACET, **recorded}
    return facets


def _job_facets(settings: Settings, fact: Fact) -> dict[str, Any]:
    kind: dict[str, Any] = {"processingType": "BATCH", "integration": "FORECACHE", "jobType": fact.stage.upper()}
    facets = {"jobType": facet("jobType", kind)}
    if settings.openlineage_code_url:
        where = {"type": "git", "url": settings.openlineage_code_url, "version": fact.code_version}
        facets["sourceCodeLocation"] = facet("sourceCodeLocation", where)
    return facets


def dataset_of(dataset: Dataset, *, of: str) -> dict[str, Any]:
    """A dataset as an event has it; `of` is "input" or "output"."""
    own = {name: facet(name, content) for name, content in dataset.facets.items() if name not in _OF_INPUTS}
    if dataset.version:
        own["version"] = facet("version", {"datasetVersion": dataset.version})
    more: dict[str, Any] = {}
    if of == "input":
        more["inputFacets"] = {name: facet(name, dataset.facets[name]) for name in _OF_INPUTS if name in dataset.facets}
    elif dataset.rows is not None:
        more["outputFacets"] = {"outputStatistics": facet("outputStatistics", {"rowCount": dataset.rows})}
    return {"namespace": dataset.namespace, "name": dataset.name, "facets": own, **more}


def facet(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A facet of the specification with the URL of its schema."""
    path = _VERSIONS[name]
    schema = f"{_FACETS}/{path}.json#/$defs/{path.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **content}


def moment(at: datetime) -> str:
    """ISO 8601 in UTC."""
    return at.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


@cache
def package_version() -> str:
    """Version of the installed Forecache."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("forecache")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
