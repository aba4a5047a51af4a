"""The journal of alerts: problems and their ends, the notices and messages of each receiver, and cursors.

It is one file in the lake, `.state/alerts.json`, which all machines change by compare-and-swap: what one of them has
recorded or sent is known to all.
"""

import json
import secrets
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from forecache.base.alert import LASTING, OF_ONE_MACHINE, REPEATED, Alert, Kind, Severity, Subject
from forecache.base.errors import DamagedError, ForecacheError, UnavailableError
from forecache.base.settings import Settings
from forecache.kit.installation import open_state
from forecache.kit.process.periodic import Backoff
from forecache.plugins.alerts.message import Message, Notice, State

JOURNAL_FILE = "alerts.json"
_DAY_S = 86400.0
_KEPT_S = 90 * _DAY_S
_SEEN_S = 3600.0
"""The time at which an alert was last seen is recorded this often, so that a look without news writes nothing."""
_BACKOFF = Backoff(30.0, 3600.0)
_HOUR_S = 3600.0
_PATIENCE_S = 10.0
_T = TypeVar("_T")


@dataclass
class AlertRecord:
    """An alert from its beginning to its end."""

    id: str
    kind: Kind
    name: str
    occasion: str
    severity: Severity
    summary: str
    details: str  # JSON
    at: datetime
    seen_at: float
    ended_at: float | None = None
    # by receiver, the number of notices that it is firing, and the time of the last one
    notified: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def subject(self) -> Subject:
        return Subject(self.kind, self.name, self.occasion)

    @property
    def alert(self) -> Alert:
        return Alert(
            self.kind, self.name, self.severity, self.summary, json.loads(self.details), self.at, self.occasion
        )


@dataclass(frozen=True)
class NoticeRecord:
    """A notice, which has its text from the alert."""

    alert: str  # id
    state: State
    number: int = 0


@dataclass
class Outbox:
    """The notices and the message that wait for one receiver, and how it answered."""

    waiting: list[NoticeRecord] = field(default_factory=list)  # in no message yet
    message: str = ""  # id of the message that was made and is not accepted yet; "": there is none
    made_at: float = 0.0
    in_message: list[NoticeRecord] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)  # times at which the messages of the last hour were made
    failed: int = 0  # number of failures in a row
    next_at: float = 0.0  # time of the next try after a failure
    reason: str = ""  # reason why it did not accept the last message; "" if it did

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.in_message)

    def next_message(self, now: float, *, per_hour: int) -> bool:
        """Tell if there is a message to send now: one that was not accepted yet, or a new one of all that waits."""
        # If the clock was set back meanwhile, the pause ends rather than lasts very long.
        if self.failed and now < self.next_at <= now + _BACKOFF.longest_s:
            return False
        if self.message:
            return True
        self.recent = [at for at in self.recent if now - _HOUR_S <= at <= now]
        if not self.waiting or len(self.recent) >= per_hour:
            return False
        self.message, self.made_at = uuid.uuid4().hex, now
        self.in_message, self.waiting = self.waiting, []
        self.recent.append(now)
        return True

    def end_message(self, message: str, *, is_working: bool = True) -> None:
        """Note that a message is not sent any more: the receiver took it, refused it for good, or never answered."""
        if self.message == message:
            self.message, self.in_message = "", []
        if is_working:
            self.failed, self.next_at, self.reason = 0, 0.0, ""

    def mark_failed(self, reason: str, now: float, *, at_least_s: float) -> None:
        """Note that the receiver failed: it is tried again after 30 s, then 1 min, 2 min and so on up to an hour."""
        self.failed, self.reason = self.failed + 1, reason
        self.next_at = now + max(_BACKOFF.pause_s(self.failed), at_least_s)


@dataclass(frozen=True)
class CursorMove:
    """The positions from which and up to which something was read."""

    before: str | None  # None: it was read for the first time
    after: str


@dataclass
class AlertJournal:
    """Everything that is known of alerts."""

    alerts: dict[str, AlertRecord] = field(default_factory=dict)  # by id, in the order of their recording
    outboxes: dict[str, Outbox] = field(default_factory=dict)  # by receiver
    cursors: dict[str, tuple[str, float]] = field(default_factory=dict)  # value and time
    mark: str = ""  # different in every state that was ever written

    def cursor(self, name: str) -> str | None:
        """The recorded position of a cursor; None if there is none."""
        return self.cursors[name][0] if name in self.cursors else None

    def outbox(self, receiver: str) -> Outbox:
        return self.outboxes.setdefault(receiver, Outbox())

    @property
    def open_alerts(self) -> list[Alert]:
        """Lasting alerts that are not over, the oldest first."""
        found = [each for each in self.alerts.values() if each.ended_at is None and each.kind in LASTING]
        return [each.alert for each in sorted(found, key=lambda each: each.at)]

    def message_to(self, receiver: str, project: str) -> Message:
        """The message that was made for a receiver and is not accepted yet."""
        outbox = self.outboxes[receiver]
        return Message(outbox.message, project, utc_time(outbox.made_at), tuple(self.notices_of(outbox.in_message)))

    def notices_of(self, records: Iterable[NoticeRecord]) -> list[Notice]:
        found = []
        for record in records:
            if (known := self.alerts.get(record.alert)) is not None:
                is_over = record.state == "resolved" and known.ended_at is not None
                ended_at = utc_time(known.ended_at or 0.0) if is_over else None
                found.append(Notice(known.id, known.alert, record.state, record.number, ended_at))
        return found

    def record(
        self,
        alerts: Iterable[Alert],
        well: Iterable[Subject],
        *,
        receivers: Collection[str],
        complete: Collection[Kind],
        repeat_s: float,
    ) -> None:
        """Record alerts, then resolved subjects; see `record_alerts`."""
        now, found = time.time(), list(alerts)
        is_open = {each.subject: each for each in self.alerts.values() if each.ended_at is None}
        num_before = Counter(each.subject for each in self.alerts.values())
        for alert in found:
            subject = alert.subject
            if subject not in is_open:
                is_open[subject] = self._begin(alert, num_before[subject], now)
                num_before[subject] += 1
            self._record_firing(is_open[subject], alert, receivers, repeat_s, now)
        wrong = {alert.subject for alert in found}
        gone = [each for each, known in is_open.items() if each.kind in OF_ONE_MACHINE and now - known.seen_at > _DAY_S]
        for subject in [*well, *gone, *(each for each in is_open if each.kind in complete and each not in wrong)]:
            assert subject.kind in LASTING, subject
            if (ended := is_open.pop(subject, None)) is not None:
                ended.ended_at = now
                for receiver in ended.notified:
                    self.outbox(receiver).waiting.append(NoticeRecord(ended.id, "resolved"))

    def _begin(self, alert: Alert, num_before: int, now: float) -> AlertRecord:
        at = alert.at.astimezone(timezone.utc)
        begun = AlertRecord(
            alert.id(num_before), alert.kind, alert.name, alert.occasion, alert.severity, "", "{}", at, now
        )
        self.alerts[begun.id] = begun
        return begun

    def _record_firing(
        self, known: AlertRecord, alert: Alert, receivers: Collection[str], repeat_s: float, now: float
    ) -> None:
        # The error of a run may name a file whose name has bytes that are no text.
        known.severity, known.summary = alert.severity, alert.summary.encode(errors="replace").decode()
        known.details = json.dumps(dict(alert.details), default=str)
        if not 0 <= now - known.seen_at < _SEEN_S:
            known.seen_at = now
        is_repeated = alert.kind in REPEATED and repeat_s > 0
        for receiver in receivers:
            count, last = known.notified.get(receiver, (0, 0.0))
            if not count or (is_repeated and last + repeat_s <= now):
                known.notified[receiver] = (count + 1, now)
                self.outbox(receiver).waiting.append(NoticeRecord(known.id, "firing", count))

    def remove_old(self) -> None:
        """Remove alerts that were neither seen nor ended for 90 days, and cursors that were not moved for as long."""
        old = time.time() - _KEPT_S
        self.alerts = {id_: each for id_, each in self.alerts.items() if max(each.seen_at, each.ended_at or 0) >= old}
        self.cursors = {name: each for name, each in self.cursors.items() if each[1] >= old}


_JOURNAL = TypeAdapter(AlertJournal)


def read_journal(settings: Settings) -> AlertJournal:
    """Read the journal; an empty one if nothing was recorded yet. UnavailableError if it cannot be read."""
    return _use_journal(
        settings, lambda: _parse(settings, open_state(settings, patience_s=_PATIENCE_S).read(JOURNAL_FILE))
    )


def change_journal(settings: Settings, change: Callable[[AlertJournal], _T]) -> _T:
    """Change the journal; `change` gets the newest one, and is called again if another process was faster.

    Returns:
        The result of the last call of `change`.

    Raises:
        UnavailableError: The journal cannot be read or written, and is as it was.
    """

    def swap() -> _T:
        state = open_state(settings, patience_s=_PATIENCE_S)
        while True:
            found = state.read(JOURNAL_FILE)
            journal = _parse(settings, found)
            before = _JOURNAL.dump_json(journal)
            result = change(journal)
            if _JOURNAL.dump_json(journal) == before:
                return result
            journal.mark = secrets.token_hex(8)
            content = _JOURNAL.dump_json(journal)
            if state.swap(JOURNAL_FILE, content, found[1] if found else None) is not None:
                return result
            now = state.read(JOURNAL_FILE)
            if now is not None and now[0] == content:  # the answer to the write was lost
                return result

    return _use_journal(settings, swap)


def _parse(settings: Settings, found: tuple[bytes, object] | None) -> AlertJournal:
    try:
        return AlertJournal() if found is None else _JOURNAL.validate_json(found[0])
    except ValidationError as error:
        raise DamagedError(
            f"The journal of alerts {journal_path(settings)} cannot be read: {error.errors()[0]['msg']}.",
            remedy="Remove it: each receiver is then notified once more of what is wrong.",
        ) from error


def _use_journal(settings: Settings, use: Callable[[], _T]) -> _T:
    try:
        return use()
    except OSError as error:
        raise UnavailableError(
            f"The journal of alerts {journal_path(settings)} cannot be read or written: {error}.",
            remedy="Check its permissions and the disk, or how the object store is reached.",
        ) from error


def journal_path(settings: Settings) -> str:
    return f"{open_state(settings)}/{JOURNAL_FILE}"


def record_alerts(
    settings: Settings,
    alerts: Iterable[Alert],
    well: Iterable[Subject] = (),
    *,
    receivers: Collection[str],
    complete: Collection[Kind] = (),
    cursors: Mapping[str, CursorMove] | None = None,
) -> AlertJournal:
    """Record alerts, then resolved subjects, at once; returns the journal afterwards.

    Args:
        well: Subjects whose recorded alerts are over.
        receivers: Names of the receivers to be notified.
        complete: Lasting kinds of which `alerts` has every open alert: recorded ones that are not in it are over.
        cursors: By name, the positions between which `alerts` and `well` were read. If another process has moved one
            of them meanwhile, it has recorded the same, and nothing is recorded.
    """
    found, over, moves = list(alerts), list(well), dict(cursors or {})

    def record(journal: AlertJournal) -> AlertJournal:
        if any(journal.cursor(name) != move.before for name, move in moves.items()):
            return journal
        repeat_s = settings.alert_repeat_h * 3600
        journal.record(found, over, receivers=receivers, complete=complete, repeat_s=repeat_s)
        now = time.time()
        for name, move in moves.items():
            if journal.cursor(name) != move.after or now - journal.cursors[name][1] > _DAY_S:
                journal.cursors[name] = (move.after, now)
        return journal

    return change_journal(settings, record)


def preview_notices(
    settings: Settings, alerts: Iterable[Alert], well: Iterable[Subject], *, receiver: str, complete: Collection[Kind]
) -> list[Notice]:
    """The notices that a receiver would get now, as `Message.groups` orders them; nothing is recorded."""
    journal = read_journal(settings)
    repeat_s = settings.alert_repeat_h * 3600
    journal.record(alerts, well, receivers=[receiver], complete=complete, repeat_s=repeat_s)
    outbox = journal.outbox(receiver)
    return journal.notices_of([*outbox.in_message, *outbox.waiting])


def home_name(settings: Settings) -> str:
    """The name of this home among those of all machines, for cursors of what only its machine has."""
    return f"{socket.gethostname()}:{settings.home_path}"


def utc_time(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)


def current_alerts(settings: Settings) -> tuple[list[Alert], list[str]]:
    """Open alerts from a look at the project and from the journal, and the look's problems, a sentence each."""
    from forecache.plugins.alerts.collect_alerts import collect_alerts_safely

    found = collect_alerts_safely(settings)
    seen = [alert for alert in found.alerts if alert.kind in LASTING]
    known = {alert.subject for alert in seen}
    try:
        noted = read_noted_alerts(settings)
    except ForecacheError as error:
        return seen, list(dict.fromkeys([*found.problems, str(error)]))
    # Of kinds that the look covers completely, recorded alerts that it has not found are over.
    noted = [alert for alert in noted if alert.subject not in known and alert.kind not in found.complete]
    return [*seen, *noted], list(found.problems)


def read_noted_alerts(settings: Settings) -> list[Alert]:
    """The open alerts of the journal; none if nothing was recorded yet."""
    return read_journal(settings).open_alerts
