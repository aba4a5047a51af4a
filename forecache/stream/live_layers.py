"""Live layers of a stream, made from its declaration and written to the file LIVE of each of its stores."""

from functools import partial

from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Stream
from forecache.declare.features.live import build_merge_plan
from forecache.declare.stream import KEEP_H
from forecache.serve.store.encoding.column_values import served_type
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.manifest import Field
from forecache.serve.store.remote_store import open_store
from forecache.stream.events.event_judge import key_schema
from forecache.stream.table.schema import output_fields


def layers_of(stream: Stream) -> dict[str, LiveLayer]:
    """Return the live layers of a stream by the names of their stores."""
    of_stream = partial(
        LiveLayer,
        stream=stream.name,
        table=stream.table,
        event_time=stream.source.event_time,
        max_lag_s=stream.max_lag_s,
    )
    found = {}
    for view in stream.views:
        fields = tuple(Field(name, "float") for name in view.served_fields)
        key, plan = key_schema(stream.topic, view.key), build_merge_plan(view).to_json()
        found[view.name] = of_stream(kind="tiles", key=key, fields=fields, plan=plan)
    answers, rows = stream.answers, stream.live_rows
    if answers is not None and rows is not None:
        by_event = isinstance(answers, Realtime)
        # A pipeline's row counts until a published version includes it; an event's row is never published.
        keep_h = (rows.keep_h or KEEP_H) if by_event else None
        key, fields = key_schema(stream.topic, stream.key), _served_answer_fields(answers)
        found[stream.name if by_event else answers.name] = of_stream(kind="rows", key=key, fields=fields, keep_h=keep_h)
    return found


def write_layers(settings: Settings, stream: Stream, *, only: str | None = None) -> list[str]:
    """Write the declared live layers into the stream's stores, or into one of them; returns the stores' names."""
    layers = {name: layer for name, layer in layers_of(stream).items() if only in (None, name)}
    for name, layer in layers.items():
        store = open_store(settings, name)
        store.layout.create()
        write_layer(store.layout, layer)
    return list(layers)


def _served_answer_fields(answers: Pipeline | Realtime) -> tuple[Field, ...]:
    """The fields of an answer; for a pipeline, the ones that it publishes."""
    by_name = {field.name: field for field in output_fields(answers)}
    names = answers.served_fields if isinstance(answers, Pipeline) else list(by_name)
    return tuple(Field(name, served_type(by_name[name].type) or "string") for name in names)
