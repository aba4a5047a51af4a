"""The promotion ledger: an append-only Delta table of every decision about which model is the champion.

A decision is recorded only if the last row about the model is still the one that the decision was made on, so of two
machines one wins. MLflow's aliases follow the ledger.

A rollback and a person's promotion are two rows of one `operation`: "begun" before anything moves, "passed" (or
"undone") after. An opening row without a closing one is an interrupted decision, which
`forecache.operations.rollback.recover_interrupted` finishes or undoes. The gate's move is one row: an interrupted gate
finishes its move when it judges the version again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from forecache.base.code_version import code_version
from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.base.steps import look_once
from forecache.kit.lease import Lease

PROMOTION_TABLE = "promotion_ledger"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One decision.

    Attributes:
        training_table, training_version: Table and Delta version on which the version was trained and judged.
        from_published, to_published: Store versions served before and after, if the decision moved the store, too.
        from_pinned: Store version that was pinned when a rollback began; the rollback removes it, but no later pin.
        predictions_version: Delta version of the prediction table from which `to_published` was published.
        position: Delta version of the ledger before this row, which orders decisions of machines whose clocks differ.
        outdated_verdict: A person promoted the version although its verdict was outdated, for a cause in `reason`.
    """

    recorded_at: datetime
    pipeline: str
    action: str  # "gate", "promote", "reject" or "rollback"
    actor: str  # person or job that decided
    from_version: int | None  # the champion before, None without one
    to_version: int | None  # the champion after; equal to `from_version` if the champion did not change
    candidate: int | None = None  # the judged version, if it is not `to_version`
    verdict: str  # "passed", "failed" or "awaiting_approval"; of an operation "begun", then "passed" or "undone"
    reason: str  # the verdict in one line
    metrics: Mapping[str, float] = field(default_factory=dict)  # the judged version's test metrics
    training_table: str
    training_version: int
    code_version: str = ""
    run_id: str = ""
    operation: str = ""  # id shared by the rows of one operation
    from_published: int | None = None
    to_published: int | None = None
    predictions_version: int | None = None
    from_pinned: int | None = None
    outdated_verdict: bool | None = None
    position: int | None = None

    @property
    def about(self) -> int | None:
        return self.candidate if self.candidate is not None else self.to_version


class OtherDecisionError(ConflictError):
    """Another decision about the model was recorded since the ledger was read; nothing was written."""


def record_promotion(
    settings: Settings, entry: Promotion, *, after: Promotion | None, lease: Lease | None = None
) -> None:
    """Append a decision to the ledger, with `code_version` and `position`.

    Raises:
        OtherDecisionError: `after`, the pipeline's last row when the decision was made (None without one), is not the
            last any more.
        LeaseLostError: Another process has taken over the lease under which the decision was made.
    """
    from forecache.kit.delta.small_tables import append_to_small_table, row_schema

    row = {**vars(entry), "metrics": json.dumps(dict(entry.metrics)), "code_version": code_version(settings)}
    schema = row_schema(Promotion, int32=("from_version", "to_version", "candidate"))

    def rows_at(newest: int) -> list[dict[str, Any]]:
        last = last_promotion(settings, entry.pipeline)
        if last is not None and _ledger_position(last) != _ledger_position(after):
            raise OtherDecisionError(
                f"Another decision about model {entry.pipeline!r} was recorded meanwhile: {last.action} by "
                f"{last.actor}, champion {last.to_version}.",
                remedy=f"Look at `forecache models list {entry.pipeline}`, and decide again.",
            )
        return [{**row, "position": newest}]

    append_to_small_table(settings, PROMOTION_TABLE, schema, rows_at, fence=lease)


def _ledger_position(entry: Promotion | None) -> tuple[int | None, datetime] | None:
    return None if entry is None else (entry.position, entry.recorded_at)


def last_promotion(settings: Settings, pipeline: str) -> Promotion | None:
    """The newest row about a pipeline's model, None without one."""
    entries = promotions(settings, pipeline)
    return entries[-1] if entries else None


def promotions(settings: Settings, pipeline: str) -> list[Promotion]:
    """The decisions about a pipeline's model, oldest first."""
    return _read(settings, [("pipeline", "=", pipeline)])


def all_promotions(settings: Settings) -> list[Promotion]:
    """The decisions about every pipeline's model, oldest first."""
    return _read(settings, [])


def _read(settings: Settings, filters: list[tuple[str, str, Any]]) -> list[Promotion]:
    return look_once((settings.lake_uri, PROMOTION_TABLE, str(filters)), lambda: _parse(settings, filters))


def _parse(settings: Settings, filters: list[tuple[str, str, Any]]) -> list[Promotion]:
    from forecache.kit.delta.small_tables import read_small_table

    rows = read_small_table(settings, PROMOTION_TABLE, filters)
    found = [Promotion(**{**row, "metrics": json.loads(row["metrics"])}) for row in rows]
    return sorted(found, key=lambda entry: (-1 if entry.position is None else entry.position, entry.recorded_at))


def find_unfinished(entries: Sequence[Promotion]) -> Promotion | None:
    """The opening row of the interrupted operation, None without one."""
    ended = {entry.operation for entry in entries if entry.verdict != "begun"}
    return next(
        (entry for entry in reversed(entries) if entry.verdict == "begun" and entry.operation not in ended), None
    )


def earlier_champions(entries: Sequence[Promotion]) -> list[int]:
    """Versions that have been champion, the latest first."""
    decided = [entry.to_version for entry in entries if entry.verdict == "passed" and entry.to_version is not None]
    return list(dict.fromkeys(reversed(decided)))


def find_closing_row(entries: Sequence[Promotion], operation: str) -> Promotion | None:
    return next((entry for entry in entries if entry.operation == operation and entry.verdict != "begun"), None)


def rolled_back_versions(entries: Sequence[Promotion]) -> set[int]:
    """Versions that were rolled back and not promoted again since."""
    versions: set[int] = set()
    for entry in entries:
        if entry.verdict == "passed" and entry.to_version is not None:
            if entry.action == "rollback" and entry.from_version is not None:
                versions.add(entry.from_version)
            versions.discard(entry.to_version)
    return versions
