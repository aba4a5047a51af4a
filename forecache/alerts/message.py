"""A message to a sink: the alerts that are told at once, equal ones grouped, so that 500 failed dates are one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal

from forecache.alerts.alert import SEVERITIES, TITLES, Alert

NAMED = 20
"""So many groups a message for people names; the rest are counted."""

State = Literal["firing", "resolved"]


@dataclass(frozen=True)
class Notice:
    """That an alert is firing, or was resolved.

    Attributes:
        id: Of the alert, from its beginning to its end.
        number: How often it was told as firing before: 0 at first, more where it is repeated.
        ended_at: None while it lasts, and for alerts about a moment.
    """

    id: str
    alert: Alert
    state: State
    number: int = 0
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Group:
    """Notices of equal state, kind and name."""

    notices: tuple[Notice, ...]

    @property
    def state(self) -> State:
        return self.notices[0].state

    @property
    def severity(self) -> str:
        """The worst of them."""
        return min((notice.alert.severity for notice in self.notices), key=SEVERITIES.index)

    @property
    def title(self) -> str:
        """Such as "Check failed: raw_orders.meets_expectations (500)"."""
        alert, count = self.notices[0].alert, len(self.notices)
        over = "Resolved: " if self.state == "resolved" else "Still: " if self.notices[0].number else ""
        kind = TITLES[alert.kind]
        return f"{over}{kind[0].lower() + kind[1:] if over else kind}: {alert.name}{f' ({count})' if count > 1 else ''}"

    @property
    def text(self) -> str:
        """The first one's summary, and which others there are."""
        first, last = self.notices[0].alert, self.notices[-1].alert
        if len(self.notices) == 1:
            return first.summary
        return f"{len(self.notices)}, from {first.occasion} to {last.occasion}. The first: {first.summary}"


@dataclass(frozen=True)
class Message:
    """What one sink gets at once.

    Attributes:
        id: The same at each try to deliver it, so that a receiver can drop a repeat.
        project: Whose alerts these are.
    """

    id: str
    project: str
    made_at: datetime
    notices: tuple[Notice, ...]

    @property
    def groups(self) -> list[Group]:
        """The worst first, resolved ones last; within a group by occasion."""

        def order(notice: Notice) -> tuple[bool, int, str, str, bool, str]:
            alert = notice.alert
            severity = SEVERITIES.index(alert.severity)
            return notice.state == "resolved", severity, alert.kind, alert.name, notice.number > 0, alert.occasion

        return [Group(tuple(some)) for _, some in groupby(sorted(self.notices, key=order), key=lambda n: order(n)[:5])]

    @property
    def subject(self) -> str:
        """One line: the first group, and how many more."""
        groups = self.groups
        more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
        return f"[{self.project}] {groups[0].title}{more}"

    @property
    def named_groups(self) -> Sequence[Group]:
        return self.groups[:NAMED]

    @property
    def unnamed(self) -> str:
        """How many groups are not named, in a sentence; "" where all are."""
        left = len(self.groups) - NAMED
        return f"And {left} more: `forecache alerts` lists them." if left > 0 else ""
