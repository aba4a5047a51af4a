"""The stage runner: a stage works where its inputs differ from those of its last record, and then records what it did.

The work is committed before it is recorded. A stage that is killed in between finds its own work at the next run, or
does it again; neither changes the result.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from forecache.lake.ledger import StageRecord, last_record, last_records, record
from forecache.settings import Settings


@dataclass(frozen=True)
class Done:
    """What a stage did, as its record keeps it.

    Attributes:
        delta_version: Delta version of `table` that it committed; -1 where it wrote none.
        details: JSON-serialisable figures.
    """

    rows: int
    details: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""
    delta_version: int = -1


NightsDone = Mapping[date, Done]


@dataclass(frozen=True)
class Stage:
    """A stage of one pipeline, source or table, in one run.

    Attributes:
        subject: The pipeline, source or table that the stage is about.
    """

    settings: Settings
    name: str
    subject: str
    run_id: str = ""

    def once(
        self,
        inputs: str,
        work: Callable[[], Done],
        *,
        night: date | None = None,
        rebuild: bool = False,
        usable: Callable[[StageRecord], bool] = lambda _: True,
    ) -> tuple[StageRecord, bool]:
        """Work unless the last record has the same inputs.

        Args:
            inputs: All that the result depends on.
            rebuild: Work in any case.
            usable: Whether what the last record stands for is still there.

        Returns:
            The stage's record, and whether it was skipped.
        """
        known = last_record(self.settings, self.name, self.subject, night)
        if known is not None and not rebuild and known.inputs == inputs and usable(known):
            return known, True
        started = time.perf_counter()
        done = work()
        row = self._row(night, inputs, done, time.perf_counter() - started)
        record(self.settings, [row])
        return row, False

    def nights(
        self,
        inputs: Mapping[date, str],
        work: Callable[[Sequence[date]], NightsDone],
        *,
        at_once: int,
        rebuild: bool = False,
        find: Callable[[Mapping[date, str]], NightsDone] | None = None,
        progress: Callable[[Sequence[date], float], None] = lambda _, __: None,
    ) -> tuple[dict[date, StageRecord], list[date]]:
        """Work on the nights whose last record has other inputs.

        Args:
            inputs: By night, all that its result depends on.
            work: Does several nights together, at most `at_once`.
            find: Gets the inputs of the nights that are left; returns those whose data an earlier run committed and did
                not record.
            progress: Gets the nights that come next, and the share that is done.

        Returns:
            Each night's record, and the nights worked on.
        """
        before = {} if rebuild else last_records(self.settings, self.name, self.subject)
        records = {n: before[n] for n in inputs if n in before and before[n].inputs == inputs[n]}
        pending = sorted(set(inputs) - set(records))
        if find is not None and not rebuild:
            records |= self._record(find({night: inputs[night] for night in pending}), inputs, 0.0)
            pending = [night for night in pending if night not in records]
        for first in range(0, len(pending), at_once):
            some = pending[first : first + at_once]
            progress(some, first / len(pending))
            started = time.perf_counter()
            done = work(some)
            records |= self._record(done, inputs, time.perf_counter() - started)
        return records, pending

    def _record(self, done: NightsDone, inputs: Mapping[date, str], seconds: float) -> dict[date, StageRecord]:
        rows = {night: self._row(night, inputs[night], each, seconds / len(done)) for night, each in done.items()}
        record(self.settings, list(rows.values()))
        return rows

    def _row(self, night: date | None, inputs: str, done: Done, seconds: float) -> StageRecord:
        return StageRecord(
            self.name,
            self.subject,
            night,
            inputs,
            done.table,
            done.delta_version,
            done.rows,
            seconds,
            done.details,
            run_id=self.run_id,
        )
