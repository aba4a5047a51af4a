"""Stream: the rows of a topic's events, which an engine outside of Dagster commits about once a second.

Dagster only watches it: the sensor `streams` reports the table's newest version and its check results. The table feeds
the live layers, and the landing files of a source with `extract=StreamDay(...)`. The published versions that the engine
reads to answer events are not drawn as inputs: the graph would have a circle.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from assets.metadata import declared_columns, markdown_table, place_in_graph
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.declare.project import Published
from forecache.declare.stream import FEATURES
from forecache.stream.status import (
    CHECKS,
    Check,
    StreamCheckResult,
    StreamStatus,
    describe_stream,
    evaluate_checks,
    read_stream_status,
)
from resources.settings_resource import SettingsResource

_ERRORS = ("runs", "verified")
"""Checks whose failure is an error; the others warn."""


def topic_name(stream: Stream) -> str:
    return f"topic_{stream.topic.name}"


def live_name(store: str) -> str:
    return f"live_{store}"


def build_topic(stream: Stream) -> dg.AssetSpec:
    """An external asset for the topic."""
    topic = stream.topic
    return dg.AssetSpec(
        topic_name(stream),
        description=f"{topic.source.description}\n\nThe Kafka topic `{topic.topic}`: events as they happen.".strip(),
        **place_in_graph(stream, stage="streams"),
        kinds={"kafka"},
        metadata={"topic": topic.topic, "format": type(topic.format).__name__},
    )


def build_stream(stream: Stream) -> dg.AssetSpec:
    """The table of a stream."""
    more = [*stream.output_columns, *([FEATURES] if stream.keep_features else [])]
    columns = [*declared_columns(stream.source), *map(dg.TableColumn, more)]
    return dg.AssetSpec(
        stream.table,
        deps=[topic_name(stream)],
        description=f"{stream.description}\n\n{__doc__}".strip(),
        **place_in_graph(stream, stage="streams"),
        kinds={"deltalake", "kafka"},
        metadata={"dagster/column_schema": dg.TableSchema(columns), "engine": stream.engine},
    )


def build_live_layers(stream: Stream, published: Mapping[str, Published]) -> list[dg.AssetSpec]:
    """The live layers that a stream feeds, each above a published version."""
    return [
        dg.AssetSpec(
            live_name(store),
            deps=[stream.table, *([f"published_{store}"] if store in published else [])],
            description="Live layer: what the stream says of a key since the version that is served was made. The "
            "tailer follows the stream's table, and compares the layer with it every minute.",
            # With the stream, the groups of stream, sources and views would be a circle.
            **place_in_graph(published.get(store, stream), stage="serving"),
            kinds={"lmdb", "http"},
        )
        for store in stream.live_names
    ]


def build_stream_checks(stream: Stream) -> dg.AssetChecksDefinition:
    """The checks of a stream; the sensor evaluates them periodically, and a person may at any time."""

    @dg.multi_asset_check(
        name=f"check_{stream.table}",
        specs=[dg.AssetCheckSpec(name, asset=stream.table, description=about) for name, about in checks_of(stream)],
    )
    def check_stream(settings: SettingsResource) -> Iterator[dg.AssetCheckResult]:
        for each in _all_check_results(read_stream_status(settings.load(), stream)):
            yield dg.AssetCheckResult(
                passed=each.passed, check_name=each.check, asset_key=stream.table, description=each.sentence,
                severity=_severity_of(each),
            )  # fmt: skip

    return check_stream


def checks_of(stream: Stream) -> list[tuple[Check, str]]:
    """Name and meaning of each check; a stream without live layers has no check `verified`."""
    return [(name, about) for name, about in CHECKS.items() if name != "verified" or stream.live_names]


def stream_materialization(settings: Settings, now: StreamStatus) -> dg.AssetMaterialization:
    """The newest version of the table, as an event."""
    figures = describe_stream(now)
    shown = {
        name: figures[name]
        for name in ("rows_per_s", "delay_p50_s", "delay_p99_s", "lag_events", "bad", "repeats", "late", "release")
        if figures[name] is not None
    }
    partitions = now.state.end_offsets if now.state else {}
    offsets = now.state.offsets if now.state else {}
    rows = [(int(each), offsets.get(each, 0), end) for each, end in sorted(partitions.items(), key=lambda i: int(i[0]))]
    return dg.AssetMaterialization(
        now.stream.table,
        metadata={
            "dagster/table_name": now.stream.table,
            "dagster/uri": settings.table_uri(now.stream.table),
            "delta_version": figures["committed_version"],
            **shown,
            "offsets": markdown_table(("partition", "committed", "in the topic"), rows),
        },
    )


def layer_materializations(now: StreamStatus) -> list[dg.AssetMaterialization]:
    """The progress of each live layer as events; layers that have not applied a version yet are left out."""
    return [
        dg.AssetMaterialization(
            live_name(layer.store),
            metadata={
                "rows": layer.rows, "applied_version": layer.applied, "verified_through": layer.verified_through,
            },
        )
        for layer in now.layers
        if layer.applied >= 0
    ]  # fmt: skip


def stream_evaluations(now: StreamStatus) -> list[dg.AssetCheckEvaluation]:
    """The results of all checks as events."""
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(now.stream.table), check_name=each.check, passed=each.passed, metadata={},
            severity=_severity_of(each), description=each.sentence,
        )
        for each in _all_check_results(now)
    ]  # fmt: skip


def _all_check_results(now: StreamStatus) -> list[StreamCheckResult]:
    """Results of every check; a check without data yet passes."""
    found = {each.check: each for each in evaluate_checks(now)}
    return [
        found.get(name) or StreamCheckResult(name, True, f"Not known: {now.stream.name} has never run here.")
        for name, _ in checks_of(now.stream)
    ]


def _severity_of(each: StreamCheckResult) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if each.check in _ERRORS else dg.AssetCheckSeverity.WARN
