"""Messages about alerts: notices of equal kind and name are one group, so that a flood is one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal

from forecache.base.alert import SEVERITIES, TITLES, Alert

NAMED = 20
"""Number of groups that a message for people names; the rest are counted."""

State = Literal["firing", "resolved"]


@dataclass(frozen=True)
class Notice:
    """The information that an alert is firing, or was resolved."""

    id: str  # of the alert, from its beginning to its end
    alert: Alert
    state: State
    number: int = 0  # number of earlier notices that it is firing: 0 for the first, more for repeats
    ended_at: datetime | None = None  # None while it lasts, and for alerts about a moment


@dataclass(frozen=True)
class NoticeGroup:
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
        """The summary of the first, and the range of the others."""
        first, last = self.notices[0].alert, self.notices[-1].alert
        if len(self.notices) == 1:
            return first.summary
        return f"{len(self.notices)}, from {first.occasion} to {last.occasion}. The first: {first.summary}"


@dataclass(frozen=True)
class Message:
    """One message to one receiver."""

    id: str  # equal at each try to deliver it, so that a receiver can drop duplicates
    project: str  # the project that the alerts are from
    made_at: datetime
    notices: tuple[Notice, ...]

    @property
    def groups(self) -> list[NoticeGroup]:
        """The worst first, resolved ones last; within a group by occasion."""

        def sort_key(notice: Notice) -> tuple[bool, int, str, str, bool, str]:
            alert = notice.alert
            severity = SEVERITIES.index(alert.severity)
            return notice.state == "resolved", severity, alert.kind, alert.name, notice.number > 0, alert.occasion

        return [
            NoticeGroup(tuple(some))
            for _, some in groupby(sorted(self.notices, key=sort_key), key=lambda n: sort_key(n)[:5])
        ]

    @property
    def subject(self) -> str:
        """One line: the first group and the number of the others."""
        groups = self.groups
        more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
        return f"[{self.project}] {groups[0].title}{more}"

    @property
    def named_groups(self) -> Sequence[NoticeGroup]:
        return self.groups[:NAMED]

    @property
    def remainder_text(self) -> str:
        """A sentence with the number of groups that are not named; "" if all are."""
        left = len(self.groups) - NAMED
        return f"And {left} more: `forecache alerts` lists them." if left > 0 else ""
