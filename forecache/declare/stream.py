"""A stream: events of a topic, the live views that they update, and a model that answers each of them."""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import STREAM, STREAM_QUARANTINE, check_name, check_unique
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.models.applied import SqlModel
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.sources.column import Column, check_key_type
from forecache.declare.sources.source import Source
from forecache.declare.summary import declaration_html


@dataclass(frozen=True)
class Json:
    """A message is a JSON object: a member for each column, times in ISO 8601."""


@dataclass(frozen=True)
class Avro:
    """A message is an Avro record: a field for each column.

    Attributes:
        schema: Schema of the writer: a file, relative to the folder of the project's package, or the schema as JSON.
        registry_wire: Messages begin with the five bytes of a schema registry, a zero and the schema's number.
    """

    schema: str
    registry_wire: bool = False

    def __post_init__(self) -> None:
        check_fields("`Avro`", self)
        check_value("`Avro`", "schema", self.schema, bool(self.schema), "Give a file, or the schema as JSON.")


@dataclass(frozen=True)
class Topic:
    """The events of a source in a Kafka topic. The same rows land later as the day's file.

    A message may lack columns that are not required, which are then null. Other fields of a message are ignored.

    Attributes:
        topic: Name of the topic in Kafka.
        source: Source of events with landing files and an event time that is a timestamp; a message is validated like a
            row of it.
        without: Columns that messages do not have yet, such as a label; they are null in the stream.
        key: Columns by which producers choose the partition of a message. A stream with several shards needs them.
    """

    name: str
    topic: str
    source: Source
    format: Json | Avro = field(default_factory=Json)
    without: tuple[str, ...] = ()
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"Topic {self.name!r}"
        check_fields(owner, self)
        check_name("topic", self.name)
        check_topic_name(owner, self.topic)
        types = {column.name: column.type for column in self.source.columns}
        kind = types.get(self.source.event_time)
        if kind != "timestamp":
            raise SettingsError(
                f"{owner} carries the source {self.source.name!r}, whose rows have "
                f"{f'the event time {self.source.event_time!r}, a {kind}' if kind else 'no event time'}.",
                remedy="Give a source of events whose event time is a timestamp.",
            )
        check_unique("column in `without`", owner, self.without)
        for name in self.without:
            needed = {self.source.event_time, *self.source.unique}
            rule = f"Name columns of the source other than {', '.join(sorted(needed))}, which every message has."
            check_value(owner, "without", name, name in types and name not in needed, rule)
        check_unique("column in `key`", owner, self.key)
        for name in self.key:
            rule = "Name columns of the source that every message has."
            check_value(owner, "key", name, name in {column.name for column in self.columns if column.required}, rule)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.source.columns if column.name not in self.without)


def check_topic_name(owner: str, name: str) -> None:
    fits = 0 < len(name) < 250 and all(each.isascii() and (each.isalnum() or each in "._-") for each in name)
    check_value(owner, "topic", name, fits, "A topic has 1 to 249 letters, digits, dots, underscores and hyphens.")


@dataclass(frozen=True)
class Table:
    """The Delta table `stream_<name>`: a row for each event, with its answer; every stream has it."""


KEEP_H = 24.0
"""Default of `LiveRows.keep_h`."""


@dataclass(frozen=True)
class LiveRows:
    """The live layer that the reader answers from.

    Attributes:
        keep_h: For a stream with a `Realtime` as `answers`, hours of event time after which the answer to an event is
            removed; None: 24. With a `Pipeline` it is None: a row stays until all retained versions include it.
    """

    keep_h: float | None = None

    def __post_init__(self) -> None:
        check_fields("`LiveRows`", self)
        check_least("`LiveRows`", self, 0, "keep_h", above=True)


@dataclass(frozen=True)
class ToTopic:
    """A Kafka topic: the row of each event as JSON, exactly once for consumers that read committed messages."""

    topic: str

    def __post_init__(self) -> None:
        check_fields("`ToTopic`", self)
        check_topic_name("`ToTopic`", self.topic)


Result = Table | LiveRows | ToTopic


STREAM_COLUMNS = (
    "position",
    "place",
    "kafka_partition",
    "kafka_offset",
    "kafka_at",
    "hour",
    "event_day",
    "received_at",
    "model_version",
    "release",
    "answered_by",
    "feature_version",
    "late",
)
"""Columns of a stream's table besides those of its topic and the outputs."""
FEATURES = "features"
"""The column of the features, if the stream keeps them."""
_FIELDS = {"int": "bigint"}
"""The type of the request field for a type of column, if their names differ."""


@dataclass(frozen=True)
class Stream:
    """Events of a Kafka topic as they arrive.

    Attributes:
        name: Part of the names of its tables, `stream_<name>` and `stream_quarantine_<name>`.
        views: Live views over the topic's source; the stream keeps their tiles.
        answers: A `Realtime`: every event is a request to it, and its look-ups into `views` include all events before.
            A `Pipeline` of one of the views: every event updates the row of its key, from the features that include the
            event. None: only the views are kept.
        to: Destinations of the rows; (): the table, and with `answers` that are published the live layer, too.
        engine: "arrow": one process. "spark": Structured Streaming, for a cluster. Their rows are equal.
        freshness: When an answer is visible: after the "commit" of its row, or at the "event", before it; that needs
            the engine "arrow".
        late_days: Days after the day on which an event was received in which another message with the same
            `Source.unique` is dropped as a duplicate. Late events are accepted however late they arrive.
        commit_s: Seconds between commits.
        max_lag_s: Most seconds that the stream may be behind. Beyond them its checks fail and alerts are sent; a reader
            that starts is ready once its live layers are no further behind.
        shards: Most engines that share it at once: shard i of n has the partitions i, i + n, i + 2n, ... More than one
            needs `Topic.key`, the engine "arrow", the freshness "commit" and no `ToTopic`.
        keep_features: True: the table has the features that each event was answered with, to the bit, in the column
            `features`: a list of float in the order of the release's features, or of the pipeline's; NaN for unknown.
    """

    name: str
    topic: Topic
    views: tuple[FeatureView, ...] = ()
    answers: Realtime | Pipeline | None = None
    to: tuple[Result, ...] = ()
    engine: Literal["arrow", "spark"] = "arrow"
    freshness: Literal["commit", "event"] = "commit"
    late_days: int = 2
    commit_s: float = 1.0
    max_lag_s: float = 60.0
    shards: int = 1
    keep_features: bool = False
    description: str = ""
    owner: str = ""
    _repr_html_ = declaration_html

    def __post_init__(self) -> None:
        owner = f"Stream {self.name!r}"
        check_fields(owner, self)
        if not self.to:
            is_served = isinstance(self.answers, Realtime) or (self.answers and self.answers.publish)
            object.__setattr__(self, "to", (Table(), LiveRows()) if is_served else (Table(),))
        check_stream(owner, self)

    @property
    def table(self) -> str:
        return STREAM + self.name

    @property
    def quarantine_table(self) -> str:
        """Delta table of the messages that are no events."""
        return STREAM_QUARANTINE + self.name

    @property
    def source(self) -> Source:
        return self.topic.source

    @property
    def all_sources(self) -> tuple[Source]:
        return (self.source,)

    @property
    def key(self) -> tuple[str, ...]:
        """Key of an answer: the columns that identify the event, or the key of the pipeline; () without answers."""
        if self.answers is None:
            return ()
        return self.source.unique if isinstance(self.answers, Realtime) else self.answers.key

    @property
    def output_columns(self) -> tuple[str, ...]:
        if self.answers is None:
            return ()
        return (self.answers.output,) if isinstance(self.answers, Realtime) else self.answers.output_columns

    @property
    def live_rows(self) -> LiveRows | None:
        return next((each for each in self.to if isinstance(each, LiveRows)), None)

    @property
    def to_topic(self) -> ToTopic | None:
        return next((each for each in self.to if isinstance(each, ToTopic)), None)

    @property
    def live_names(self) -> tuple[str, ...]:
        """The stores that have a live layer of this stream: of each view, and of the answers."""
        of_answers: tuple[str, ...] = ()
        if self.answers is not None and self.live_rows is not None:
            of_answers = (self.name if isinstance(self.answers, Realtime) else self.answers.name,)
        return (*(view.name for view in self.views), *of_answers)

    @property
    def start(self) -> date:
        return self.source.start

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the rows, besides the model."""
        columns = [(column.name, column.type) for column in self.topic.columns]
        return fingerprint(
            topic=(self.topic.topic, self.topic.format, columns, self.source.event_time, self.source.unique),
            views=[(view.name, view.fingerprint) for view in self.views],
            answers=self.answers and (type(self.answers).__name__, self.answers.name),
            late_days=self.late_days,
        )


def check_stream(owner: str, stream: Stream) -> None:
    """Refuse a stream that could not run, or whose answers could not be found."""
    check_name("stream", stream.name)
    check_least(owner, stream, 0, "late_days")
    check_least(owner, stream, 0, "commit_s", "max_lag_s", above=True)
    if not stream.views and stream.answers is None:
        raise SettingsError(f"{owner} has neither views nor answers.", remedy="Give `views`, `answers`, or both.")
    check_unique("kind of result", owner, [type(each).__name__ for each in stream.to])
    rule = "Every stream has its table, by which it is exactly once: name `Table()` among them."
    check_value(owner, "to", stream.to, any(isinstance(each, Table) for each in stream.to), rule)
    rule = "Only `Table()` is of use without `answers`; a view has its live layer in any case."
    check_value(owner, "to", stream.to, stream.answers is not None or len(stream.to) == 1, rule)
    rule = 'Only the engine "arrow" shows rows before their commit.'
    check_value(owner, "freshness", stream.freshness, stream.freshness == "commit" or stream.engine == "arrow", rule)
    check_unique("view", owner, [view.name for view in stream.views])
    for view in stream.views:
        _check_view(owner, stream, view)
    check_least(owner, stream, 1, "shards")
    _check_shards(owner, stream)
    rule = "Without `answers` nothing is answered with features."
    fits = not stream.keep_features or stream.answers is not None
    check_value(owner, "keep_features", stream.keep_features, fits, rule)
    columns = [*STREAM_COLUMNS, *(column.name for column in stream.topic.columns), *stream.output_columns]
    check_unique("column", f"{owner}, in its table,", [*columns, *([FEATURES] if stream.keep_features else [])])
    if isinstance(stream.answers, Realtime):
        _check_realtime(owner, stream, stream.answers)
    elif stream.answers is not None:
        _check_pipeline(owner, stream, stream.answers)


def _check_view(owner: str, stream: Stream, view: FeatureView) -> None:
    if view.live is None:
        raise SettingsError(
            f"{owner} keeps the view {view.name!r}, which is not live.", remedy="Declare it with `live=Live()`."
        )
    if view.event_source != stream.source:
        raise SettingsError(
            f"{owner} keeps the view {view.name!r} of the source {view.event_source.name!r}, and its topic carries "
            f"{stream.source.name!r}.",
            remedy="Name views of the topic's source.",
        )
    for window in view.windows:
        needed = () if window.delay_days else (window.column or "", *(where.column for where in window.where))
        missing = {*needed, *view.key} & set(stream.topic.without)
        if missing:
            raise SettingsError(
                f"{owner} keeps the view {view.name!r}, whose window {window.name!r} needs {min(missing)!r}, which the "
                "messages of its topic do not have.",
                remedy="Give that window as many `delay_days` as pass until the column is known, or leave it out.",
            )


def _check_shards(owner: str, stream: Stream) -> None:
    """Refuse shards whose engines would not see all events of a key, or that an engine does not know."""
    key = set(stream.topic.key)
    can = bool(key) and stream.engine == "arrow" and stream.freshness == "commit" and stream.to_topic is None
    rule = 'Give the topic a `key`, and the stream the engine "arrow", the freshness "commit" and no `ToTopic`.'
    check_value(owner, "shards", stream.shards, can or stream.shards == 1, rule)
    for view in stream.views if stream.shards > 1 else ():
        if not key <= set(view.key):
            raise SettingsError(
                f"{owner} has {stream.shards} shards by {', '.join(stream.topic.key)}, and its view {view.name!r} is "
                f"keyed by {', '.join(view.key)}: the events of one key would be in several shards.",
                remedy="Keep the view in a stream with one shard, or send the messages by columns of its key.",
            )


def _check_realtime(owner: str, stream: Stream, model: Realtime) -> None:
    types = {column.name: column.type for column in stream.topic.columns}
    if model.candidates is not None:
        raise SettingsError(
            f"{owner} answers by {model.name!r}, which ranks candidates.",
            remedy="Name a real-time model whose answer is one value.",
        )
    if not stream.source.unique:
        raise SettingsError(
            f"{owner} answers each event, and its source {stream.source.name!r} has no `unique` columns.",
            remedy="Declare the columns that identify an event: they are the key of its answer.",
        )
    for name in stream.source.unique:
        check_key_type(owner, name, types[name])
    for asked in model.request:
        kind = types.get(asked.name)
        if kind is None and asked.default is None:
            raise SettingsError(
                f"{owner} answers by {model.name!r}, whose field {asked.name!r} is no column of its topic.",
                remedy=f"Its columns are {', '.join(types)}: name the field after one, or give it a default.",
            )
        if kind is not None and _FIELDS.get(kind, kind) != asked.type:
            raise SettingsError(
                f"{owner} answers by {model.name!r}, whose field {asked.name!r} is a {asked.type}, and the column of "
                f"its topic is a {kind}.",
                remedy="Declare the field with the type of the column.",
            )
    for lookup in model.lookups:
        if lookup.view.live is not None and lookup.view not in stream.views:
            raise SettingsError(
                f"{owner} answers by {model.name!r}, which looks up the live view {lookup.view.name!r}, and does not "
                "keep it.",
                remedy="Name it in `views`: then an event sees all events before it.",
            )


def _check_pipeline(owner: str, stream: Stream, pipeline: "Pipeline") -> None:
    if not isinstance(pipeline.features, FeatureView) or pipeline.features not in stream.views:
        raise SettingsError(
            f"{owner} answers by {pipeline.name!r}, whose features are none of its views.",
            remedy="Give the pipeline one live view as its features, and name that view in `views`.",
        )
    if pipeline.key != pipeline.features.key:
        raise SettingsError(
            f"{owner} answers by {pipeline.name!r}, whose key is {', '.join(pipeline.key)}, and that of its view is "
            f"{', '.join(pipeline.features.key)}.",
            remedy="Give both the same key.",
        )
    if isinstance(pipeline.model, SqlModel):
        raise SettingsError(
            f"{owner} answers by {pipeline.name!r}, whose model is SQL expressions.",
            remedy="Apply a function or a registered model, or train one.",
        )
    if pipeline.publish is not None and pipeline.publish.backend != "lmdb":
        raise SettingsError(
            f"{owner} answers by {pipeline.name!r}, which is published to {pipeline.publish.backend}.",
            remedy="A live layer is kept in LMDB beside the versions: publish it there.",
        )
    # A row that expires before a version has its key would be missing until the next publish.
    if (rows := stream.live_rows) is not None and rows.keep_h is not None:
        raise SettingsError(
            f"{owner} answers by the pipeline {pipeline.name!r} and declares LiveRows(keep_h={rows.keep_h:g}).",
            remedy="Write `LiveRows()`: a row of a pipeline's key stays until all retained versions include it.",
        )
