"""Live layers of a stream, made from its declaration and written to the file LIVE of each of its stores."""

from collections.abc import Sequence

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import (
    FeatureView,
    Pipeline,
    Realtime,
    Stream,
)
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.declare.streams.results import KEEP_H
from forecache.serve.store.encoding.column_values import served_type
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.manifest import Field
from forecache.serve.store.store import open_store
from forecache.stream.events.event_judge import key_schema
from forecache.stream.table.schema import output_fields


def layers_of(stream: Stream) -> dict[str, LiveLayer]:
    """Return the live layers of a stream by the names of their stores."""
    found = {view.name: _view_layer(stream, view) for view in stream.views}
    answers, rows = stream.answers, stream.live_rows
    if answers is not None and rows is not None:
        by_event = isinstance(answers, Realtime)
        # A pipeline's row counts until a published version includes it; an event's row is never published.
        keep_h = (rows.keep_h or KEEP_H) if by_event else None
        found[stream.name if by_event else answers.name] = _answer_layer(stream, keep_h)
    return found


def write_layers(settings: Settings, stream: Stream, *, only: str | None = None) -> list[str]:
    """Write the declared live layers into the stream's stores, or into one of them; returns the stores' names."""
    layers = {name: layer for name, layer in layers_of(stream).items() if only in (None, name)}
    for name, layer in layers.items():
        store = open_store(settings, name)
        store.layout.create()
        write_layer(store.layout, layer)
    return list(layers)


def _view_layer(stream: Stream, view: FeatureView) -> LiveLayer:
    return LiveLayer(
        stream=stream.name,
        table=stream.table,
        kind="tiles",
        key=key_schema(stream.topic, view.key),
        fields=tuple(Field(name, "float") for name in view.served_fields),
        event_time=stream.source.event_time,
        max_lag_s=stream.max_lag_s,
        plan=build_merge_plan(view).to_json(),
    )


def _answer_layer(stream: Stream, keep_h: float | None) -> LiveLayer:
    return LiveLayer(
        stream=stream.name,
        table=stream.table,
        kind="rows",
        key=key_schema(stream.topic, stream.key),
        fields=_served_answer_fields(stream),
        event_time=stream.source.event_time,
        max_lag_s=stream.max_lag_s,
        keep_h=keep_h,
    )


def _served_answer_fields(stream: Stream) -> tuple[Field, ...]:
    """The fields of an answer; for a pipeline, the ones that it publishes."""
    there: Sequence[pa.Field] = output_fields(stream.answers)
    by_name = {field.name: field for field in there}
    names = stream.answers.served_fields if isinstance(stream.answers, Pipeline) else list(by_name)
    return tuple(Field(name, served_type(by_name[name].type) or "string") for name in names)
