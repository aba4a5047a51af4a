"""Metadata of materializations: rows, table, version, seconds, and column schemas from the declaration."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Any, Protocol

import dagster as dg

from forecache.base.links import status_page_url
from forecache.base.output_kinds import spark_name
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import AS_OF, AnySource, FeatureView, Pipeline, Source, TableSource
from forecache.declare.sources.column import key_types
from resources.instance import runner_instance

SOURCES, VIEWS = "sources", "feature_views"
NAME_TAG, STAGE_TAG = "forecache/name", "forecache/stage"


class _Declaration(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def owner(self) -> str: ...


def place_in_graph(declared: _Declaration, *, stage: str) -> dict[str, Any]:
    """Group, tags and owner of an asset of a declaration.

    Each pipeline, recommender, real-time model, stream and mailing is a group of the graph; all sources are one, and so
    are all feature views, which several may use. The tags filter the graph and the catalog by name and stage.
    """
    group = getattr(declared, "maker", declared).name  # a second table of a recommender stands with it
    if isinstance(declared, Source | TableSource | FeatureView):
        group = VIEWS if isinstance(declared, FeatureView) else SOURCES
    return {
        "group_name": group,
        "tags": {NAME_TAG: declared.name, STAGE_TAG: stage},
        "owners": [declared.owner] if declared.owner else [],
    }


def add_page_link(spec: dg.AssetSpec, settings: Settings) -> dg.AssetSpec:
    """The asset with a link to the page on its declaration, or with the command that writes that page."""
    name = spec.tags.get(NAME_TAG)
    if name is None or spec.group_name == SOURCES:
        return spec
    return spec.merge_attributes(
        metadata={"page": link_or_text(status_page_url(settings, name), f"forecache report {name} --open")}
    )


def link_or_text(url: str, text: str) -> dg.MetadataValue[Any]:
    """A link; the text if the settings name no address of the server that has it."""
    return dg.MetadataValue.url(url) if url else dg.MetadataValue.text(text)


def stage_metadata(settings: Settings, result: StageResult) -> dict[str, Any]:
    """The figures that every stage has."""
    metadata: dict[str, Any] = {
        "dagster/row_count" if result.table else "rows": result.rows,
        "seconds": round(result.seconds, 2),
        "skipped": result.skipped,
    }
    if result.table:
        metadata["dagster/table_name"] = result.table
        metadata["dagster/uri"] = settings.table_uri(result.table)
    if result.delta_version is not None:
        metadata["delta_version"] = result.delta_version
    return metadata


def details_json(result: StageResult) -> dg.JsonMetadataValue:
    """The details of a stage's result as JSON."""
    return dg.MetadataValue.json(json.loads(json.dumps(dict(result.details), default=str)))


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """Rows as a Markdown table; floats to four significant digits."""
    lines = [" | ".join(headers), " | ".join("---" for _ in headers)]
    lines += [" | ".join(_format_cell(value) for value in row) for row in rows]
    return dg.MetadataValue.md("\n".join(f"| {line} |" for line in lines))


def _format_cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def embed_plots(
    documents: Mapping[str, str], *, titles: Mapping[str, str] = MappingProxyType({})
) -> dg.MarkdownMetadataValue:
    """SVG documents inside the metadata itself, so that the UI needs no file server; those with a title under it."""
    parts = []
    for name, svg in documents.items():
        image = f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
        parts += [f"#### {titles[name]}", image] if name in titles else [image]
    return dg.MetadataValue.md("\n\n".join(parts))


def declared_columns(source: AnySource) -> list[dg.TableColumn]:
    return [
        dg.TableColumn(c.name, c.type, description=c.description, constraints=dg.TableColumnConstraints(not c.required))
        for c in source.columns
    ]


def source_schema(source: Source) -> dg.TableSchema:
    added = {
        "event_day": ("date", "Day of the landing file; the partition."),
        "source_file": ("string", "Landing file that the row came in."),
        "source_line": ("bigint", "Line of the row in its landing file."),
        "ingested_at": ("timestamp", "Time of the ingestion (UTC)."),
    }
    return dg.TableSchema(
        [*declared_columns(source), *(dg.TableColumn(n, t, description=d) for n, (t, d) in added.items())]
    )


def key_columns(declared: Pipeline | FeatureView) -> list[dg.TableColumn]:
    types = key_types(declared.key, declared.all_sources)
    keys = [dg.TableColumn(name, types[name], description="Part of the key.") for name in declared.key]
    return [*keys, dg.TableColumn(AS_OF, "date", description="As-of date of the row; the partition.")]


def feature_columns(declared: Pipeline | FeatureView) -> list[dg.TableColumn]:
    return [dg.TableColumn(f.name, f.spark_type, description=f.description) for f in declared.feature_columns]


def prediction_schema(pipeline: Pipeline) -> dg.TableSchema:
    from forecache.scoring.tasks.prediction_rows import layout_of, prediction_fields

    texts = {
        **{column: output.description for output in pipeline.outputs for column in output.spec.columns},
        **{segment.name: segment.description for segment in pipeline.segments},
        "model_name": "Registered name of the model.",
        "model_version": "Version of the model.",
        "feature_version": "Delta version of the feature table that was scored.",
        "scored_at": "Time of scoring (UTC).",
        "run_id": "Run that scored it.",
    }
    fields = prediction_fields(layout_of(pipeline))
    columns = [dg.TableColumn(f.name, spark_name(f.type), description=texts[f.name]) for f in fields]
    return dg.TableSchema([*key_columns(pipeline), *columns])


def record_asset_event(
    settings: Settings,
    asset: str,
    metadata: Mapping[str, Any],
    *,
    result: StageResult | None = None,
    night: date | None = None,
) -> None:
    """Record an event of an asset in the instance that the UI reads.

    Args:
        metadata: Who, with which command, and further figures.
        result: The stage that materialized the asset; None records an observation instead of a materialization.
        night: The partition that was materialized.
    """
    told = {name: value if isinstance(value, int | float) else str(value) for name, value in metadata.items()}
    if result is None:
        event: dg.AssetObservation | dg.AssetMaterialization = dg.AssetObservation(asset, metadata=told)
    else:
        event = dg.AssetMaterialization(
            asset,
            partition=night.isoformat() if night else None,
            metadata={**told, **stage_metadata(settings, result)},
        )
    with runner_instance(settings) as instance:
        instance.report_runless_asset_event(event)
