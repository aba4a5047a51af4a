"""Validates events by OpenLineage's own JSON schemas and its own Python client."""

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.serde import Serde
from referencing import Registry, Resource

_SPEC = Path(__file__).parent / "openlineage_spec"
_CLASSES = {
    "columnLineage": "column_lineage_dataset.ColumnLineageDatasetFacet",
    "dataQualityAssertions": "data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet",
    "dataQualityMetrics": "data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet",
    "datasetType": "dataset_type_dataset.DatasetTypeDatasetFacet",
    "errorMessage": "error_message_run.ErrorMessageRunFacet",
    "jobType": "job_type_job.JobTypeJobFacet",
    "nominalTime": "nominal_time_run.NominalTimeRunFacet",
    "outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet",
    "parent": "parent_run.ParentRunFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
    "schema": "schema_dataset.SchemaDatasetFacet",
    "sourceCodeLocation": "source_code_location_job.SourceCodeLocationJobFacet",
    "storage": "storage_dataset.StorageDatasetFacet",
    "symlinks": "symlinks_dataset.SymlinksDatasetFacet",
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
}


@cache
def _registry() -> Registry[Any]:
    schemas = [json.loads(path.read_text()) for path in sorted(_SPEC.glob("*.json"))]
    return Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in schemas])


def _validate(content: Any, url: str) -> None:
    schema = {"$ref": url}
    Draft202012Validator(schema, registry=_registry(), format_checker=FormatChecker()).validate(content)


def facets_of(event: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every facet of an event with its name."""
    datasets = [*event["inputs"], *event["outputs"]]
    holders = [event["run"]["facets"], event["job"]["facets"]]
    holders += [each.get(kind, {}) for each in datasets for kind in ("facets", "inputFacets", "outputFacets")]
    return [pair for holder in holders for pair in holder.items()]


def require_valid(event: dict[str, Any]) -> None:
    """Raise where the event or one of its facets is not what the schema that it names says."""
    assert event["schemaURL"].endswith("#/$defs/RunEvent")
    _validate(event, event["schemaURL"])
    for _, facet in facets_of(event):
        _validate(facet, facet["_schemaURL"])


def as_client_has_it(event: dict[str, Any]) -> dict[str, Any]:
    """The event as the client serialises it."""
    return dict(Serde.to_dict(client_event(event)))


def client_event(event: dict[str, Any]) -> RunEvent:
    """The event made of the client's own classes, which check it."""
    return RunEvent(
        eventType=RunState[event["eventType"]],
        eventTime=event["eventTime"],
        run=Run(event["run"]["runId"], _facets(event["run"]["facets"])),
        job=Job(event["job"]["namespace"], event["job"]["name"], _facets(event["job"]["facets"])),
        inputs=[
            InputDataset(
                each["namespace"],
                each["name"],
                facets=_facets(each["facets"]),
                inputFacets=_facets(each["inputFacets"]),
            )
            for each in event["inputs"]
        ],
        outputs=[
            OutputDataset(
                each["namespace"],
                each["name"],
                facets=_facets(each["facets"]),
                outputFacets=_facets(each.get("outputFacets", {})),
            )
            for each in event["outputs"]
        ],
        producer=event["producer"],
    )


def _facets(content: dict[str, Any]) -> dict[str, Any]:
    return {name: _facet(name, facet) for name, facet in content.items() if name in _CLASSES}


def _facet(name: str, content: dict[str, Any]) -> Any:
    module, _, class_name = _CLASSES[name].partition(".")
    kind = getattr(importlib.import_module(f"openlineage.client.generated.{module}"), class_name)
    own = {key: value for key, value in content.items() if not key.startswith("_")}
    return kind(**own, producer=content["_producer"])
