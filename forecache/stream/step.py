"""One step of a stream: turns a batch of messages into the rows of its table and the tiles of its views.

The result depends on the messages, the events before them, the batch states of the views, and the release or model:
not on the engine, nor on how the same messages are split into batches. A recomputation uses the same step.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Stream
from forecache.declare.stream import FEATURES
from forecache.stream.dedup.deduplicator import Deduplicator
from forecache.stream.events.event_judge import EventJudge, key_schema
from forecache.stream.table.schema import (
    EVENT_DAY,
    FEATURE_VERSION,
    HOUR,
    LATE,
    MODEL_VERSION,
    PLACE,
    POSITION,
    QUARANTINE,
    RELEASE,
    schema_of,
)
from forecache.stream.tiles.batch_states import NOTHING_YET, ServedStates
from forecache.stream.tiles.view_tiles import Bases, ViewFeatures, ViewTiles

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class EventAnswers:
    """The answers to n events; a row without an answer is null."""

    columns: Sequence[pa.Array]  # `forecache.stream.table.schema.output_fields`
    model_version: int | None = None
    release: int | None = None
    failed: int = 0  # rows without an answer
    failure: str = ""  # the error of the last of these
    features: Callable[[], pa.Array] | None = None  # makes the list of the model's inputs for each event


class Answerer:
    """Answers the events of a batch; this one, of a stream without a model, does not."""

    look_every_s = 3600.0  # between two calls of `find_newer`
    release: int | None = None  # that answers

    def find_newer(self) -> Any:
        """Load a newer release or model version for `switch_to`; None if there is none. Any thread may call it.

        ForecacheError if there is no release or model at all, or the newer one cannot be used.
        """
        return None

    def switch_to(self, found: Any) -> None:
        """Answer with the result of `find_newer` from now on; called between batches."""

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        """Answer events, given the features of each by view."""
        return EventAnswers([])


def answerer_of(settings: Settings, answers: Any, *, number: int | None = None) -> Answerer:
    """Return the answerer of a stream; `number` is the release or model version that always answers."""
    if answers is None:
        return Answerer()
    answerer: Answerer = load_hook("stream_answers", "answerer_of")(settings, answers, number)
    return answerer


def switch_to_newest(answerer: Answerer) -> None:
    """Switch to the current release or model version; raises as `Answerer.find_newer`."""
    if (found := answerer.find_newer()) is not None:
        answerer.switch_to(found)


@dataclass(frozen=True)
class StepResult:
    rows: pa.Table  # `schema_of` without duplicates, in order; position, place and hour are null until the commit
    live: Mapping[str, Sequence[tuple[bytes, int, bytes]]]  # by view, as `ViewFeatures.touched`
    bad: pa.Table  # `QUARANTINE` with whole contents
    repeats: int = 0  # duplicate events, which were dropped
    late: int = 0  # rows
    unknown: int = 0  # events with undeclared members
    failed: int = 0  # rows without an answer because the transform or the model failed on them
    failure: str = ""  # the error of the last of these


class StreamStep:
    """Answers the messages of a stream. SettingsError if the schema of the topic cannot be read.

    The caller switches the `answerer` to the current release at least once before the first batch, confirms commits to
    `repeats`, and closes it at the end. `bases` finds the batch state of a view; None: the served states, looked up for
    each batch. `too_old` says why features of the last batch are unknown if a state is too old to be merged; else "".
    """

    def __init__(self, settings: Settings, stream: Stream, *, bases: Bases | None = None) -> None:
        self._settings, self._stream = settings, stream
        self.judge = event_judge_of(settings, stream)
        self.answerer = answerer_of(settings, stream.answers)
        self.bases: Bases = bases or ServedStates(settings)
        self.schema, self.too_old = schema_of(stream), ""
        see: Any = "after" if isinstance(stream.answers, Pipeline) else "before"
        self.views = {view.name: ViewTiles(view, key_schema(stream.topic, view.key), see) for view in stream.views}
        self.repeats = Deduplicator(stream.source.unique, stream.late_days)

    def run(self, messages: pa.Table) -> StepResult:
        """Judge and answer `forecache.stream.table.schema.MESSAGES`."""
        judged = self.judge(messages)
        return replace(self.answer(judged.events, judged.bad), unknown=judged.unknown)

    def answer(self, events: pa.Table, bad: pa.Table | None = None) -> StepResult:
        """Answer events that have been judged, or rows of the stream's table; `bad` is included in the result."""
        new = self.repeats.find_new(events)
        repeats = events.num_rows - len(new)
        if repeats:
            events = events.take(pa.array(new, pa.int64()))
        seen = {name: view.add_events(events, self.bases(view.view)) for name, view in self.views.items()}
        self.too_old = self._describe_too_old(events, seen)
        answers = self.answerer.answer(events, seen)
        late = _find_late(events, seen)
        return StepResult(
            self._build_rows(events, seen, answers, late),
            {name: each.touched for name, each in seen.items()},
            QUARANTINE.empty_table() if bad is None else bad,
            repeats,
            int(late.sum()),
            failed=answers.failed,
            failure=answers.failure,
        )

    def replay(self, batches: Iterable[pa.Table]) -> int:
        """Add rows of the stream's table, in its order, to the tiles again, and return their number.

        Call `use_current_states` before. The rows have `event_day` and the columns of the topic.
        """
        count = 0
        for rows in batches:
            count += rows.num_rows
            days = rows[EVENT_DAY].cast(pa.int32()).to_numpy()
            for view in self.views.values():
                places = np.flatnonzero(days >= view.complete_from)
                if len(places):
                    view.add_events(rows.take(pa.array(places)), self.bases(view.view), sees=False)
        return count

    def use_current_states(self) -> date:
        """Merge the views with the current batch states; returns the first day whose events a view needs."""
        for view in self.views.values():
            view.move_base_to(self.bases(view.view).as_of)
        return _EPOCH + timedelta(days=min((view.complete_from for view in self.views.values()), default=0))

    @property
    def problem(self) -> str:
        """The reason for which events lack current features or ids stay in memory; "" if there is none."""
        return self.too_old or getattr(self.bases, "failure", "") or self.repeats.failure

    def _describe_too_old(self, events: pa.Table, seen: dict[str, ViewFeatures]) -> str:
        newest = pc.max(events[EVENT_DAY]).as_py()
        for name, each in seen.items() if newest is not None else ():
            nights = self.views[name].plan.nights
            if each.as_of != NOTHING_YET and (newest - each.as_of).days > nights:
                return (
                    f"The version of the view {name} is as of {each.as_of} and can be merged for {nights} days: "
                    f"events of {newest} see none of its features. Publish a newer one: `forecache run {name}`."
                )
        return ""

    def _build_rows(
        self, events: pa.Table, seen: dict[str, ViewFeatures], answers: EventAnswers, late: np.ndarray
    ) -> pa.Table:
        n = events.num_rows
        made = {
            MODEL_VERSION: _repeat_value(answers.model_version, n, pa.int64()),
            RELEASE: _repeat_value(answers.release, n, pa.int64()),
            FEATURE_VERSION: _repeat_value(",".join(each.base for each in seen.values()), n, pa.string()),
            LATE: pa.array(late),
            **{name: pa.nulls(n, self.schema.field(name).type) for name in (POSITION, PLACE, HOUR)},
        }
        if self._stream.keep_features:
            assert answers.features is not None, "a stream without answers keeps no features"
            made[FEATURES] = answers.features()
        outputs = [name for name in self.schema.names if name not in made and name not in self.judge.schema.names]
        made |= dict(zip(outputs, answers.columns, strict=True))
        columns = [made[name] if name in made else events[name] for name in self.schema.names]
        return pa.table(columns, schema=self.schema)


def event_judge_of(settings: Settings, stream: Stream) -> EventJudge:
    """Make the judge of a stream's messages; schema files are searched in the folder of the project's package."""
    found = importlib.util.find_spec(settings.project)
    folder = Path(found.origin).parent if found is not None and found.origin else Path.cwd()
    return EventJudge(stream, folder)


def _find_late(events: pa.Table, seen: dict[str, ViewFeatures]) -> np.ndarray:
    """True for each event whose day a nightly run has processed already, bool [n]."""
    nights = [each.as_of for each in seen.values()]
    days = events[EVENT_DAY].cast(pa.int32()).to_numpy()
    late: np.ndarray = days <= ((max(nights) - _EPOCH).days if nights else -1)
    return late


def _repeat_value(value: Any, rows: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value, kind), rows)
