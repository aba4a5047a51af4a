"""The stage ledger: one row for every stage that did work, so that a later run knows what is still current.

A stage states what its result depends on as an `inputs` string. It is current for an as-of date if the last row has
the same inputs; then running it again does nothing. Rows are only appended. The last row is the one of the newest
commit and not of the newest time, as the clocks of two machines may differ.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from functools import cached_property
from operator import eq, ge, le
from typing import Any

from forecache.base.code_version import code_version
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, is_looking, look_once
from forecache.lake.definitions import keep_fingerprint_definitions

LEDGER_TABLE = "stage_ledger"
ASSUMED = "assumed"
"""The kind of what a look has found under which its assumed records are."""


class RecordedDetails(Mapping[str, Any]):
    """Details of a row, whose JSON is parsed when they are first read: most rows of years of nights are not."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.text)
        return {"as_of" if name == "night" else name: value for name, value in values.items()}  # of earlier versions

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class StageRecord:
    """One row of the ledger."""

    stage: str
    subject: str
    as_of: date | None  # None: a stage without as-of dates
    inputs: str  # equal inputs mean an equal result
    table: str
    delta_version: int  # of `table`; -1: the stage wrote none
    rows: int
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    run_id: str = ""
    recorded_at: datetime | None = None
    commit_version: int | None = None  # Delta version of the ledger that added the row

    def core_s(self, cores: int) -> float:
        """Core-seconds that it took; if none were measured, its time on so many cores."""
        measured: float | None = (self.details.get("cost") or {}).get("core_s")
        return self.seconds * cores if measured is None else measured


def append_records(settings: Settings, records: Sequence[StageRecord]) -> None:
    """Append rows; `recorded_at`, `code_version` and `commit_version` are filled in."""
    if not records:
        return
    begin_work(f"recording {records[0].stage} of {records[0].subject}")
    from forecache.kit.delta.small_tables import append_to_small_table, row_schema

    now, version = datetime.now(timezone.utc), code_version(settings)
    rows = [
        {
            **vars(row),
            "details": json.dumps(dict(row.details), default=str),
            "code_version": version,
            "recorded_at": now,
        }
        for row in records
    ]
    schema = row_schema(StageRecord)
    append_to_small_table(
        settings, LEDGER_TABLE, schema, lambda newest: [{**row, "commit_version": newest + 1} for row in rows]
    )
    keep_fingerprint_definitions(settings, (row.inputs for row in records))


def last_records(
    settings: Settings, stage: str, subject: str, *, nights: Collection[date] = ()
) -> dict[date | None, StageRecord]:
    """The latest row of each as-of date for one stage of one pipeline or source; empty if there is none.

    With `nights` at least these dates; there are years of others.
    """
    within = [("as_of", ">=", min(nights)), ("as_of", "<=", max(nights))] if nights else []
    rows = _read_records(settings, [("stage", "=", stage), ("subject", "=", subject), *within])
    return {row.as_of: row for row in rows}


def last_records_of_stages(
    settings: Settings, stages: Collection[str], subject: str
) -> dict[str, dict[date | None, StageRecord]]:
    """By stage, the latest row of each as-of date of one pipeline or source, in one read."""
    found: dict[str, dict[date | None, StageRecord]] = {stage: {} for stage in stages}
    for row in _read_records(settings, [("stage", "in", list(stages)), ("subject", "=", subject)]):
        found[row.stage][row.as_of] = row
    return found


def records_of_subjects(settings: Settings, subjects: Collection[str]) -> list[StageRecord]:
    """Every row of all stages of some pipelines, sources or tables, the latest last."""
    return _read_records(settings, [("subject", "in", list(subjects))])


def all_records(settings: Settings, stage: str, subject: str) -> list[StageRecord]:
    """Every row of one stage of one pipeline or source, the latest last."""
    return _read_records(settings, [("stage", "=", stage), ("subject", "=", subject)])


def newest_record(settings: Settings, stage: str, subject: str) -> StageRecord | None:
    """The row of one stage of one pipeline or source that was added last; None without one."""
    rows = _read_records(settings, [("stage", "=", stage), ("subject", "=", subject)], only_last=True)
    return rows[-1] if rows else None


def records_since(settings: Settings, moment: datetime) -> list[StageRecord]:
    """Every row of any stage that was recorded at or after a time, the latest last."""
    return _read_records(settings, [("recorded_at", ">=", moment)])


def records_after(settings: Settings, commit_version: int) -> list[StageRecord]:
    """Every row of any stage that was added after a Delta version of the ledger, the latest last."""
    return _read_records(settings, [("commit_version", ">=", commit_version + 1)])


def ledger_records(settings: Settings) -> list[StageRecord]:
    """Every row of every stage, the latest last."""
    return _read_records(settings, [])


def newest_night(settings: Settings, stage: str, subject: str) -> date | None:
    """The newest as-of date with a row of a stage; None if there is none."""
    return max((night for night in last_records(settings, stage, subject) if night is not None), default=None)


def last_record(settings: Settings, stage: str, subject: str, night: date | None = None) -> StageRecord | None:
    """The latest row of one as-of date; None if there is none."""
    # A filter cannot match null, which is the as-of date of a stage without as-of dates.
    of_night = [] if night is None else [("as_of", "=", night)]
    rows = _read_records(settings, [("stage", "=", stage), ("subject", "=", subject), *of_night])
    return {row.as_of: row for row in rows}.get(night)


def _read_records(
    settings: Settings, filters: list[tuple[str, str, Any]], *, only_last: bool = False
) -> list[StageRecord]:
    """The rows that meet the filters, the latest last; with `only_last` that one alone."""
    key = (settings.lake_uri, str(filters), only_last)
    found = look_once(key, lambda: _parse_records(settings, filters, only_last=only_last))
    assumed = [row for row in _assumed_records(settings) if all(_meets(row, each) for each in filters)]
    return [*(() if only_last and assumed else found), *(assumed[-1:] if only_last else assumed)]


def assume_records(settings: Settings, records: Iterable[StageRecord]) -> None:
    """Let reads of a process that only looks also return these rows, as the latest: work that it has found."""
    assert is_looking()
    _assumed_records(settings).extend(records)


def _assumed_records(settings: Settings) -> list[StageRecord]:
    return look_once((ASSUMED, settings.lake_uri), list[StageRecord])


def _meets(row: StageRecord, condition: tuple[str, str, Any]) -> bool:
    name, comparison, wanted = condition
    value = getattr(row, name)
    if comparison == "in":
        return value in wanted
    if value is None:
        return False
    return bool({"=": eq, ">=": ge, "<=": le}[comparison](value, wanted))


def _parse_records(settings: Settings, filters: list[tuple[str, str, Any]], *, only_last: bool) -> list[StageRecord]:
    from forecache.kit.delta.small_tables import read_small_table

    rows = read_small_table(settings, LEDGER_TABLE, filters, only_last=only_last)
    records = [StageRecord(**{**row, "details": RecordedDetails(row["details"])}) for row in rows]
    # Rows without a commit version were written before the column existed.
    records.sort(key=lambda row: (-1 if row.commit_version is None else row.commit_version, row.recorded_at))
    return records
