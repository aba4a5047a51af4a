"""OpenLineage's events of facts and of runs of streams: https://openlineage.io/spec/2-0-2/OpenLineage.json.

Plain JSON, which tests hold to the official schemas and client: importing that takes 0.5 s in each process that sends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from functools import cache
from typing import Any

from forecache.base.settings import Settings
from forecache.plugins.lineage.datasets import Dataset
from forecache.plugins.lineage.facts import Fact, named_run_id, parent_run_id

PRODUCER = "https://pypi.org/project/forecache"
_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_RUN_FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"
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
    """The beginning and the end of the run that the fact is about."""
    run: dict[str, Any] = {
        "runId": fact.event_run_id(settings.lake_uri),
        "facets": _run_facets(settings, fact, job_names),
    }
    kind = {"processingType": "BATCH", "jobType": fact.stage.upper()}
    job = _job(settings, fact.job, kind, fact.code_version)
    yield _event("START", fact.started_at, run, job, fact.inputs)
    if fact.error:
        yield _event("FAIL", fact.ended_at, run, job, fact.inputs, error=fact.error)
    else:
        yield _event("COMPLETE", fact.ended_at, run, job, fact.inputs, fact.outputs)


@dataclass(frozen=True)
class StreamRun:
    """One process that runs a stream."""

    stream: str
    started_at: float  # Unix time
    code_version: str = ""
    inputs: Sequence[Dataset] = ()  # datasets that it reads and writes, by the declaration
    outputs: Sequence[Dataset] = ()

    def event(
        self,
        settings: Settings,
        kind: str,
        at: float,
        *,
        figures: Mapping[str, Any] | None = None,
        outputs: Sequence[Dataset] | None = None,
        error: str = "",
    ) -> dict[str, Any]:
        """An event of the run: START, RUNNING, and COMPLETE, FAIL or ABORT at its end.

        Args:
            at: Unix time.
            figures: For the facet `forecache_stream`.
            outputs: With their current figures; None: as they are declared.
            error: Reason of a failure.
        """
        facets = _own_facet("forecache_stream", figures or {})
        run_id = named_run_id(settings.lake_uri, "stream", self.stream, repr(self.started_at))
        pattern = {
            "eventTrigger": "PERIODIC",
            "eventContentMode": "COMPLETE_SNAPSHOT",
            "windowDuration": settings.openlineage_stream_every_s,
        }
        job_type = {"processingType": "STREAMING", "jobType": "STREAM", "emissionPattern": pattern}
        job = _job(settings, f"stream.{self.stream}", job_type, self.code_version)
        run, moment = {"runId": run_id, "facets": facets}, datetime.fromtimestamp(at, timezone.utc)
        made = self.outputs if outputs is None else outputs
        return _event(kind, moment, run, job, self.inputs, made, error=error)


def _event(
    kind: str,
    at: datetime,
    run: Mapping[str, Any],
    job: Mapping[str, Any],
    inputs: Sequence[Dataset],
    outputs: Sequence[Dataset] = (),
    *,
    error: str = "",
) -> dict[str, Any]:
    facets = {**run["facets"], **_facet("processing_engine", {"name": "forecache", "version": _package_version()})}
    if error:
        facets |= _facet("errorMessage", {"message": error, "programmingLanguage": "PYTHON"})
    return {
        "eventType": kind,
        "eventTime": _moment(at),
        "run": {**run, "facets": facets},
        "job": job,
        "inputs": [_input(each) for each in inputs],
        "outputs": [_output(each) for each in outputs],
        "producer": PRODUCER,
        "schemaURL": _EVENT,
    }


def _namespace(settings: Settings) -> str:
    return settings.openlineage_namespace or settings.project


def _run_facets(settings: Settings, fact: Fact, job_names: Mapping[str, str]) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if fact.run_id:
        job = {"namespace": _namespace(settings), "name": job_names.get(fact.run_id, UNKNOWN_JOB)}
        facets |= _facet("parent", {"run": {"runId": parent_run_id(fact.run_id)}, "job": job})
    if fact.nights:
        first = datetime.combine(fact.nights[0], time(), timezone.utc)
        end = datetime.combine(fact.nights[-1] + timedelta(days=1), time(), timezone.utc)
        facets |= _facet("nominalTime", {"nominalStartTime": _moment(first), "nominalEndTime": _moment(end)})
    recorded = {
        "stage": fact.stage,
        "subject": fact.subject,
        "source": fact.source,
        "code_version": fact.code_version,
        "nights": [night.isoformat() for night in fact.nights],
        "details": dict(fact.details),
    }
    return facets | _own_facet("forecache_stage", recorded)


def _job(settings: Settings, name: str, job_type: Mapping[str, Any], code_version: str) -> dict[str, Any]:
    facets = _facet("jobType", {"integration": "FORECACHE", **job_type})
    if settings.openlineage_code_url:
        where = {"type": "git", "url": settings.openlineage_code_url, "version": code_version}
        facets |= _facet("sourceCodeLocation", where)
    return {"namespace": _namespace(settings), "name": name, "facets": facets}


def _input(dataset: Dataset) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    for name in _OF_INPUTS:
        if name in dataset.facets:
            facets |= _facet(name, dataset.facets[name])
    return {**_dataset(dataset), "inputFacets": facets}


def _output(dataset: Dataset) -> dict[str, Any]:
    if dataset.rows is None:
        return _dataset(dataset)
    return {**_dataset(dataset), "outputFacets": _facet("outputStatistics", {"rowCount": dataset.rows})}


def _dataset(dataset: Dataset) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    for name, content in dataset.facets.items():
        if name not in _OF_INPUTS:
            facets |= _facet(name, content)
    if dataset.version:
        facets |= _facet("version", {"datasetVersion": dataset.version})
    return {"namespace": dataset.namespace, "name": dataset.name, "facets": facets}


def _facet(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A facet of the specification by its name, with the URL of its schema."""
    path = _VERSIONS[name]
    schema = f"{_FACETS}/{path}.json#/$defs/{path.partition('/')[2]}"
    return {name: {"_producer": PRODUCER, "_schemaURL": schema, **content}}


def _own_facet(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"_producer": PRODUCER, "_schemaURL": _RUN_FACET, **content}}


def _moment(at: datetime) -> str:
    """ISO 8601 in UTC."""
    return at.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


@cache
def _package_version() -> str:
    """Version of the installed Forecache."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("forecache")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
