"""Sends OpenLineage events of everything recorded since the last time, and again on demand.

The cursors of a receiver are a file in the lake, which all machines move. They move after it took an event: after a
kill in between, it gets that event again, with its run id.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.base.steps import Steps
from forecache.base.table_names import MAIL_TABLE
from forecache.kit.delta.small_tables import Filter
from forecache.kit.installation import hold_exclusively, open_state
from forecache.kit.lease import LeaseLostError
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.lake.ledger import LEDGER_TABLE
from forecache.models.registry.promotions import PROMOTION_TABLE
from forecache.plugins.lineage.events import events_of
from forecache.plugins.lineage.facts import (
    PUBLISHED,
    Fact,
    gate_facts,
    ingest_facts,
    mail_facts,
    publish_facts,
    stage_facts,
)
from forecache.plugins.posting import PostFailure, post_json

_TIMEOUT_S = 5.0


class Receiver(Protocol):
    """Takes events."""

    name: str  # name of its cursors

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        """Send the events of one run, in order; None if all were taken."""


class EventFile:
    """Appends events to a file, those of a run in one write."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        lines = "".join(json.dumps(event, ensure_ascii=False, default=str) + "\n" for event in events)
        content = lines.encode(errors="replace")
        path = self._path.expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock(path.with_name(f".{path.name}.lock")):
                _append(path, content)
        except OSError as error:
            return PostFailure(f"{self._path} cannot be written: {error.strerror or error}.")
        return None


class LineageServer:
    """POSTs each event to `/api/v1/lineage`, as OpenLineage's clients do."""

    name = "server"

    def __init__(self, url: str, api_key: str) -> None:
        self._url, self._api_key = f"{url.rstrip('/')}/api/v1/lineage", api_key

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        for event in events:
            failed = post_json(self._url, event, headers=headers, timeout_s=_TIMEOUT_S)
            if failed is not None:
                return failed
        return None


def configured_receivers(settings: Settings) -> list[Receiver]:
    """The receivers that the settings name."""
    found: list[Receiver] = []
    if settings.openlineage_file:
        found.append(EventFile(Path(settings.openlineage_file)))
    if settings.openlineage_url:
        found.append(LineageServer(settings.openlineage_url, settings.openlineage_api_key))
    return found


def _append(path: Path, content: bytes) -> None:
    """Append all or nothing; an incomplete last line, which a power cut left, is ended first."""
    # Without a buffer: what is left in one is written when the file is closed, after the truncation.
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            content = b"\n" + content
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


_FIRST_LOOK = timedelta(days=1)
_LATE = timedelta(days=1)
"""A record may appear this long after its timestamp: that of an ingestion is its start, and clocks differ."""
_PATIENCE_S = 10.0
_PAUSE_S = 60.0
"""A receiver that failed is tried again after this time."""
_log = logging.getLogger(__name__)

lineage_step = Steps("taken", "noted")


@dataclass(frozen=True)
class EmitResult:
    """Number of runs that a receiver took, and the reason if it did not take all of them, else ""."""

    receiver: str
    runs: int
    reason: str = ""


def emit_new(
    settings: Settings, *, job_names: Mapping[str, str] | None = None, patient: bool = False
) -> list[EmitResult]:
    """Send each receiver of the settings the facts that were recorded since it took the last event.

    It raises nothing: events that cannot be sent are sent later, and a warning is logged. A new receiver gets the facts
    of the last day.

    Args:
        job_names: Name of the orchestrator's job by its run id.
        patient: Try also a receiver that failed less than a minute ago.
    """
    found = []
    for receiver in configured_receivers(settings):
        trace = None
        try:
            emitted = _emit_to(settings, receiver, job_names or {}, patient)
        except ConflictError:  # another process sends the same
            emitted = EmitResult(receiver.name, 0)
        except Exception as error:  # noqa: BLE001  (lineage is not worth failing a stage for)
            emitted = EmitResult(receiver.name, 0, f"{type(error).__name__}: {error}")
            trace = None if isinstance(error, ForecacheError) else error
        if emitted.reason:
            _log.warning("OpenLineage events wait for the %s: %s", receiver.name, emitted.reason, exc_info=trace)
        found.append(emitted)
    return found


def emit_again(settings: Settings, facts: Iterable[Fact], *, job_names: Mapping[str, str]) -> list[EmitResult]:
    """Send each receiver events of these facts, also those that it took before; the cursors stay."""
    again, found = list(facts), []
    for receiver in configured_receivers(settings):
        runs, reason = 0, ""
        for fact in again:
            failed = receiver.send(list(events_of(settings, fact, job_names=job_names)))
            runs += failed is None
            if failed is not None:
                reason = failed.reason
                if not failed.refused:
                    break
        found.append(EmitResult(receiver.name, runs, reason))
    return found


def recorded_facts(settings: Settings, *, since: datetime, run_id: str | None = None) -> list[Fact]:
    """All facts that were recorded since a moment, or of one run of the orchestrator, in the order of their ends."""
    of_run: list[Filter] = [] if run_id is None else [("run_id", "=", run_id)]
    facts = [
        *stage_facts(settings, [("recorded_at", ">=", since), *of_run]),
        *ingest_facts(settings, [("ingested_at", ">=", since), *of_run]),
        *gate_facts(settings, [("recorded_at", ">=", since), *of_run]),
        *mail_facts(settings, [("at", ">=", since), *of_run]),
        *(fact for fact in publish_facts(settings, since) if run_id in (None, fact.run_id)),
    ]
    return sorted(facts, key=lambda fact: fact.ended_at)


def emit_failure(settings: Settings, fact: Fact, *, job_names: Mapping[str, str]) -> None:
    """Send that a stage failed, once: failures are not recorded in the lake. Raises nothing."""
    try:
        for receiver in configured_receivers(settings):
            failed = receiver.send(list(events_of(settings, fact, job_names=job_names)))
            if failed is not None:
                _log.warning("An OpenLineage event was lost for the %s: %s", receiver.name, failed.reason)
    except Exception as error:  # noqa: BLE001  (as above)
        _log.warning("An OpenLineage event was lost: %s", error, exc_info=error)


@dataclass
class _ReceiverCursors:
    """Cursors of a receiver."""

    positions: dict[str, Any] = field(default_factory=dict)  # position of the last fact that it took, by source
    # identities and positions, by source, of the facts that a read from `first_position` finds again
    taken: dict[str, dict[str, Any]] = field(default_factory=dict)
    next_at: float = 0.0  # when the receiver is tried again

    def first_position(self, source: str) -> Any:
        """The position from which the next read starts; None if nothing of the source was taken."""
        last = self.positions.get(source)
        return (datetime.fromisoformat(last) - _LATE).isoformat() if isinstance(last, str) else last

    def mark_taken(self, fact: Fact) -> None:
        self.positions[fact.source] = max(self.positions.get(fact.source, fact.position), fact.position)
        taken, first = (
            self.taken.get(fact.source, {}) | {fact.identity: fact.position},
            self.first_position(fact.source),
        )
        self.taken[fact.source] = {identity: position for identity, position in taken.items() if position >= first}


class _CursorFile:
    """The cursors of a receiver in the lake; a process that is not the only one that sends cannot move them."""

    def __init__(self, settings: Settings, receiver: str) -> None:
        self._state, self._name = open_state(settings, patience_s=_PATIENCE_S), f"lineage/{receiver}.json"
        self._seen: tuple[bytes, Any] | None = self._state.read(self._name)
        self.cursors = _ReceiverCursors(**json.loads(self._seen[0])) if self._seen else _ReceiverCursors()

    def save(self) -> None:
        content = json.dumps(vars(self.cursors)).encode()
        tag = self._state.swap(self._name, content, self._seen[1] if self._seen else None)
        # The answer to a write that was made may be lost.
        self._seen = self._state.read(self._name) if tag is None else (content, tag)
        if self._seen is None or self._seen[0] != content:
            raise LeaseLostError("Another process sends these events by now.")


def _emit_to(settings: Settings, receiver: Receiver, job_names: Mapping[str, str], patient: bool) -> EmitResult:
    with hold_exclusively(settings, f"lineage/{receiver.name}", action="sends lineage", wait_s=0.0) as lease:
        file = _CursorFile(settings, receiver.name)
        state = file.cursors
        if not patient and 0 < state.next_at - time.time() <= _PAUSE_S:
            return EmitResult(receiver.name, 0)
        runs, failed = 0, None
        for fact in _new_facts(settings, state):
            lease.check()
            failed = receiver.send(list(events_of(settings, fact, job_names=job_names)))
            if failed is not None and not failed.refused:
                break
            lineage_step("taken")
            if failed is not None:  # it would be refused each time, and hold up the others
                _log.warning("The OpenLineage %s refused an event of %s: %s", receiver.name, fact.job, failed.reason)
            runs += failed is None
            state.mark_taken(fact)
            file.save()
            lineage_step("noted")
        reason = failed.reason if failed else ""
        state.next_at = time.time() + _PAUSE_S if failed and not failed.refused else 0.0
        file.save()
    return EmitResult(receiver.name, runs, reason)


def _new_facts(settings: Settings, state: _ReceiverCursors) -> Iterator[Fact]:
    """Facts that the receiver has not taken, of each source in its order."""
    first = datetime.now(timezone.utc) - _FIRST_LOOK

    def numbered_filters(source: str, column: str, time_column: str) -> list[Filter]:
        known = state.first_position(source)
        return [(time_column, ">=", first) if known is None else (column, ">=", known)]

    def first_moment(source: str) -> datetime:
        known = state.first_position(source)
        return first if known is None else datetime.fromisoformat(known)

    facts = [
        *stage_facts(settings, numbered_filters(LEDGER_TABLE, "commit_version", "recorded_at")),
        *gate_facts(settings, numbered_filters(PROMOTION_TABLE, "position", "recorded_at")),
        *mail_facts(settings, numbered_filters(MAIL_TABLE, "commit_version", "at")),
        *ingest_facts(settings, [("ingested_at", ">=", first_moment(FILES_TABLE))]),
        *publish_facts(settings, first_moment(PUBLISHED)),
    ]
    fresh = [fact for fact in facts if fact.identity not in state.taken.get(fact.source, ())]
    return iter(sorted(fresh, key=lambda fact: (fact.source, fact.position)))
