"""Sending events of what was recorded since the last time, and again on demand.

Each receiver has cursors in the home, moved after it took an event: where a process is killed in between, that event is
sent again with the same run id, by which receivers know a repeat.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from forecache.errors import ConflictError, ForecacheError
from forecache.files import lock, write_durably
from forecache.lake.delta.small_tables import Filter
from forecache.lake.ingest.ingested import FILES_TABLE
from forecache.lake.ledger import LEDGER_TABLE
from forecache.lineage.events import events_of
from forecache.lineage.fact import Fact
from forecache.lineage.others import PUBLISHED, gate_facts, ingest_facts, mail_facts, publish_facts
from forecache.lineage.receivers import Receiver, chosen_receivers
from forecache.lineage.stages import stage_facts
from forecache.mail.ledger import MAIL_TABLE
from forecache.registry.promotions import PROMOTION_TABLE
from forecache.settings import Settings
from forecache.steps import Steps

_FIRST_LOOK = timedelta(days=1)
_LATE = timedelta(days=1)
"""So much after its moment a record may appear: that of an ingestion is its beginning, and clocks differ."""
_PAUSE_S = 60.0
"""So long a receiver that failed is left alone."""
_log = logging.getLogger(__name__)

lineage_step = Steps("taken", "noted")


@dataclass(frozen=True)
class Emitted:
    """What a receiver took; `reason` is why it did not take more, "" where it took all."""

    receiver: str
    runs: int
    reason: str = ""


def emit_new(settings: Settings, *, job_names: Mapping[str, str] | None = None, patient: bool = False) -> list[Emitted]:
    """Send each receiver of the settings what was recorded since it took the last event.

    It raises nothing: what cannot be sent is sent later, and a warning is logged. The first time, what was recorded in
    the last day is sent.

    Args:
        job_names: By the orchestrator's run id, the name of its job.
        patient: Try also a receiver that failed less than a minute ago.
    """
    found = []
    for receiver in chosen_receivers(settings):
        trace = None
        try:
            emitted = _emit_to(settings, receiver, job_names or {}, patient)
        except ConflictError:  # another process sends the same
            emitted = Emitted(receiver.name, 0)
        except Exception as error:  # noqa: BLE001  (lineage is not worth failing a stage for)
            emitted = Emitted(receiver.name, 0, f"{type(error).__name__}: {error}")
            trace = None if isinstance(error, ForecacheError) else error
        if emitted.reason:
            _log.warning("OpenLineage events wait for the %s: %s", receiver.name, emitted.reason, exc_info=trace)
        found.append(emitted)
    return found


def emit_again(settings: Settings, facts: Iterable[Fact], *, job_names: Mapping[str, str]) -> list[Emitted]:
    """Send each receiver events of these facts, whatever it took before; the cursors stay."""
    again, found = list(facts), []
    for receiver in chosen_receivers(settings):
        runs, reason = 0, ""
        for fact in again:
            failed = receiver.take(list(events_of(settings, fact, job_names=job_names)))
            runs += failed is None
            if failed is not None:
                reason = failed.reason
                if not failed.refused:
                    break
        found.append(Emitted(receiver.name, runs, reason))
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
        for receiver in chosen_receivers(settings):
            failed = receiver.take(list(events_of(settings, fact, job_names=job_names)))
            if failed is not None:
                _log.warning("An OpenLineage event was lost for the %s: %s", receiver.name, failed.reason)
    except Exception as error:  # noqa: BLE001  (as above)
        _log.warning("An OpenLineage event was lost: %s", error, exc_info=error)


@dataclass
class _State:
    """What a receiver took.

    Attributes:
        positions: By source, the last of the facts'.
        taken: By source, identities and positions of the facts that a look from `looks_from` finds again.
        next_at: When the receiver is tried again.
    """

    positions: dict[str, Any] = field(default_factory=dict)
    taken: dict[str, dict[str, Any]] = field(default_factory=dict)
    next_at: float = 0.0

    def looks_from(self, source: str) -> Any:
        """The position from which the next look begins; None where nothing of the source was taken."""
        last = self.positions.get(source)
        return (datetime.fromisoformat(last) - _LATE).isoformat() if isinstance(last, str) else last

    def note(self, fact: Fact) -> None:
        self.positions[fact.source] = max(self.positions.get(fact.source, fact.position), fact.position)
        taken, first = self.taken.get(fact.source, {}) | {fact.identity: fact.position}, self.looks_from(fact.source)
        self.taken[fact.source] = {identity: position for identity, position in taken.items() if position >= first}


def _emit_to(settings: Settings, receiver: Receiver, job_names: Mapping[str, str], patient: bool) -> Emitted:
    path = settings.home_path / "lineage" / f"{receiver.name}.json"
    with lock(path.with_suffix(".lock"), refused=lambda _: ConflictError("Another process sends these events.")):
        state = _State(**json.loads(path.read_bytes())) if path.is_file() else _State()
        if not patient and 0 < state.next_at - time.time() <= _PAUSE_S:
            return Emitted(receiver.name, 0)
        runs, failed = 0, None
        for fact in _new_facts(settings, state):
            failed = receiver.take(list(events_of(settings, fact, job_names=job_names)))
            if failed is not None and not failed.refused:
                break
            lineage_step("taken")
            if failed is not None:  # it would be refused each time, and hold up the others
                _log.warning("The OpenLineage %s refused an event of %s: %s", receiver.name, fact.job, failed.reason)
            runs += failed is None
            state.note(fact)
            write_durably(path, json.dumps(vars(state)))
            lineage_step("noted")
        reason = failed.reason if failed else ""
        state.next_at = time.time() + _PAUSE_S if failed and not failed.refused else 0.0
        write_durably(path, json.dumps(vars(state)))
    return Emitted(receiver.name, runs, reason)


def _new_facts(settings: Settings, state: _State) -> Iterator[Fact]:
    """Facts that are not taken, of each source in its order."""
    first = datetime.now(timezone.utc) - _FIRST_LOOK

    def by_number(source: str, column: str, time_column: str) -> list[Filter]:
        known = state.looks_from(source)
        return [(time_column, ">=", first) if known is None else (column, ">=", known)]

    def since(source: str) -> datetime:
        known = state.looks_from(source)
        return first if known is None else datetime.fromisoformat(known)

    facts = [
        *stage_facts(settings, by_number(LEDGER_TABLE, "commit_version", "recorded_at")),
        *gate_facts(settings, by_number(PROMOTION_TABLE, "position", "recorded_at")),
        *mail_facts(settings, by_number(MAIL_TABLE, "commit_version", "at")),
        *ingest_facts(settings, [("ingested_at", ">=", since(FILES_TABLE))]),
        *publish_facts(settings, since(PUBLISHED)),
    ]
    fresh = [fact for fact in facts if fact.identity not in state.taken.get(fact.source, ())]
    return iter(sorted(fresh, key=lambda fact: (fact.source, fact.position)))
