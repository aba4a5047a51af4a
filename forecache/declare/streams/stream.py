"""A stream: events of a topic, the live views that they update, and a model that answers each of them."""

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.table_names import STREAM, STREAM_QUARANTINE
from forecache.declare.checks.fields import check_fields
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.sources.source import Source
from forecache.declare.streams.check_stream import check_stream
from forecache.declare.streams.results import LiveRows, Result, Table, ToTopic
from forecache.declare.streams.topic import Topic


@dataclass(frozen=True)
class Stream:
    """Events of a Kafka topic as they arrive.

    Attributes:
        name: Part of the names of its tables, `stream_<name>` and `stream_quarantine_<name>`.
        views: Live views over the topic's source; the stream keeps their tiles.
        answers: A `Realtime`: every event is a request to it, and its look-ups into `views` include all events before.
            A `Pipeline` of one of the views: every event updates the row of its key, from the features that include the
            event. None: only the views are kept.
        to: Destinations of the rows; the table is always among them.
        engine: "arrow": one process. "spark": Structured Streaming, for a cluster. Their rows are equal.
        freshness: When an answer is visible: after the "commit" of its row, or at the "event", before it; that needs
            the engine "arrow".
        late_days: Days after the day on which an event was received in which another message with the same
            `Source.unique` is dropped as a duplicate. Late events are accepted however late they arrive.
        commit_s: Seconds between commits.
        max_lag_s: Most seconds that the stream may be behind. Beyond them its checks fail and alerts are sent; a reader
            that starts is ready once its live layers are no further behind.
        keep_features: True: the table has the features that each event was answered with, to the bit, in the column
            `features`: a list of float in the order of the release's features, or of the pipeline's; NaN for unknown.
    """

    name: str
    topic: Topic
    views: tuple[FeatureView, ...] = ()
    answers: Realtime | Pipeline | None = None
    to: tuple[Result, ...] = (Table(),)
    engine: Literal["arrow", "spark"] = "arrow"
    freshness: Literal["commit", "event"] = "commit"
    late_days: int = 2
    commit_s: float = 1.0
    max_lag_s: float = 60.0
    keep_features: bool = False
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Stream {self.name!r}"
        check_fields(owner, self)
        check_stream(owner, self)

    @property
    def table(self) -> str:
        """Delta table of the rows."""
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
        """The columns that an answer adds to an event."""
        if self.answers is None:
            return ()
        return (self.answers.output,) if isinstance(self.answers, Realtime) else self.answers.output_columns

    @property
    def live_rows(self) -> LiveRows | None:
        """The declared live layer of the answers; None if there is none."""
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
        """Hash of everything that decides the rows, besides the model.

        Raises:
            SettingsError: The declaration holds a value that cannot be compared between two runs.
        """
        columns = [(column.name, column.type) for column in self.topic.columns]
        return fingerprint(
            topic=(self.topic.topic, self.topic.format, columns, self.source.event_time, self.source.unique),
            views=[(view.name, view.fingerprint) for view in self.views],
            answers=self.answers and (type(self.answers).__name__, self.answers.name),
            late_days=self.late_days,
        )
