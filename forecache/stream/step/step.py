"""One step of a stream: turns a batch of messages into the rows of its table and the tiles of its views.

The result depends on the messages, the events before them, the batch states of the views, and the release or model:
not on the engine, nor on how the same messages are split into batches. A recomputation uses the same step.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.pipeline import Pipeline, Stream
from forecache.pipeline.streams.check import FEATURES
from forecache.settings import Settings
from forecache.stream.events.judge import Judge
from forecache.stream.record import (
    BASE,
    EVENT_DAY,
    HOUR,
    LATE,
    MODEL_VERSION,
    PLACE,
    POSITION,
    QUARANTINE,
    RELEASE,
    schema_of,
)
from forecache.stream.repeats.repeats import Repeats
from forecache.stream.step.answered import Answered
from forecache.stream.step.answers import Answers, answerer_of
from forecache.stream.step.bases import NOTHING_YET, ServedBases
from forecache.stream.step.keys import key_schema
from forecache.stream.step.views import Bases, LiveView, Seen

_EPOCH = date(1970, 1, 1)


class Step:
    """
    Attributes:
        judge: The judge of the stream's messages.
        answerer: The answerer; the caller switches it to the current release at least once before the first batch.
        bases: Finds the batch state of a view.
        too_old: Why features of the last batch are unknown if a batch state is too old to be merged; else "".
        repeats: The deduplicator; the caller confirms commits to it, and closes it at the end.

    Args:
        bases: None: the served states, looked up for each batch.
        number: The release or model version that answers; None: the current one.

    Raises:
        SettingsError: The schema of the topic cannot be read.
    """

    def __init__(
        self, settings: Settings, stream: Stream, *, bases: Bases | None = None, number: int | None = None
    ) -> None:
        self._settings, self._stream = settings, stream
        self.judge = judge_of(settings, stream)
        self.answerer = answerer_of(settings, stream.answers, number=number)
        self.bases: Bases = bases or ServedBases(settings)
        self.schema, self.too_old = schema_of(stream), ""
        see: Any = "after" if isinstance(stream.answers, Pipeline) else "before"
        self.views = {view.name: LiveView(view, key_schema(stream.topic, view.key), see) for view in stream.views}
        self.repeats = Repeats(stream.source.unique, stream.late_days)

    def run(self, messages: pa.Table) -> Answered:
        """Judge and answer messages.

        Args:
            messages: `forecache.stream.table_schema.MESSAGES`.
        """
        judged = self.judge(messages)
        return replace(self.answer(judged.events, judged.bad), unknown=judged.unknown)

    def answer(self, events: pa.Table, bad: pa.Table | None = None) -> Answered:
        """Answer events that have been judged.

        Args:
            events: `forecache.stream.events.event_judge.JudgedMessages.events`, or rows of the stream's table.
            bad: Bad messages to include in the result.
        """
        new = self.repeats.new(events)
        repeats = events.num_rows - len(new)
        if repeats:
            events = events.take(pa.array(new, pa.int64()))
        seen = {name: view.take_in(events, self.bases(view.view)) for name, view in self.views.items()}
        self.too_old = self._too_old(events, seen)
        answers = self.answerer.answer(events, seen)
        late = _late(events, seen)
        return Answered(
            self._rows(events, seen, answers, late),
            {name: each.touched for name, each in seen.items()},
            QUARANTINE.empty_table() if bad is None else bad,
            repeats,
            int(late.sum()),
            failed=answers.failed,
            failure=answers.failure,
        )

    def replay(self, batches: Iterable[pa.Table]) -> int:
        """Add rows of the stream's table to the tiles again; call `use_current_states` before.

        Args:
            batches: In the order of the stream, with `event_day` and the columns of the topic.

        Returns:
            The number of rows.
        """
        count = 0
        for rows in batches:
            count += rows.num_rows
            days = rows[EVENT_DAY].cast(pa.int32()).to_numpy()
            for view in self.views.values():
                places = np.flatnonzero(days >= view.complete_from)
                if len(places):
                    view.take_in(rows.take(pa.array(places)), self.bases(view.view), sees=False)
        return count

    def stand_on_nights(self) -> date:
        """Merge the views with the current batch states; returns the first day whose events a view needs."""
        for view in self.views.values():
            view.stand_on(self.bases(view.view).as_of)
        return _EPOCH + timedelta(days=min((view.complete_from for view in self.views.values()), default=0))

    @property
    def trouble(self) -> str:
        """The reason for which events lack current features or ids stay in memory; "" if there is none."""
        return self.too_old or getattr(self.bases, "failure", "") or self.repeats.failure

    def _too_old(self, events: pa.Table, seen: dict[str, Seen]) -> str:
        newest = pc.max(events[EVENT_DAY]).as_py()
        for name, each in seen.items() if newest is not None else ():
            nights = self.views[name].plan.nights
            if each.as_of != NOTHING_YET and (newest - each.as_of).days > nights:
                return (
                    f"The night of the view {name} is as of {each.as_of} and can be merged for {nights} days: "
                    f"events of {newest} see none of its features. Publish a newer night: `forecache run {name}`."
                )
        return ""

    def _rows(self, events: pa.Table, seen: dict[str, Seen], answers: Answers, late: np.ndarray) -> pa.Table:
        n = events.num_rows
        made = {
            MODEL_VERSION: _same(answers.model_version, n, pa.int64()),
            RELEASE: _same(answers.release, n, pa.int64()),
            BASE: _same(",".join(each.base for each in seen.values()), n, pa.string()),
            LATE: pa.array(late),
            **{name: pa.nulls(n, self.schema.field(name).type) for name in (POSITION, PLACE, HOUR)},
        }
        if self._stream.keep_features:
            assert answers.used is not None, "a stream without answers keeps no features"
            made[FEATURES] = answers.used.lists()
        outputs = [name for name in self.schema.names if name not in made and name not in self.judge.schema.names]
        made |= dict(zip(outputs, answers.columns, strict=True))
        columns = [made[name] if name in made else events[name] for name in self.schema.names]
        return pa.table(columns, schema=self.schema)


def judge_of(settings: Settings, stream: Stream) -> Judge:
    """Make the judge of a stream's messages; schema files are searched in the folder of the project's package."""
    found = importlib.util.find_spec(settings.project)
    folder = Path(found.origin).parent if found is not None and found.origin else Path.cwd()
    return Judge(stream, folder)


def _late(events: pa.Table, seen: dict[str, Seen]) -> np.ndarray:
    """True for each event whose day a nightly run has processed already, bool [n]."""
    nights = [each.as_of for each in seen.values()]
    days = events[EVENT_DAY].cast(pa.int32()).to_numpy()
    late: np.ndarray = days <= ((max(nights) - _EPOCH).days if nights else -1)
    return late


def _same(value: Any, rows: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value, kind), rows)
