"""Problems of a reader as sentences with a remedy. Causes that name paths are in its log and not here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["critical", "warning"]
LATELY_S = 3600
"""An unexpected end of a worker is reported for so long."""


@dataclass(frozen=True)
class Attention:
    """A problem that an operator has to look at.

    Attributes:
        severity: critical: requests are not answered as they should be; warning: they soon may not be.
        what: The problem, a sentence with the thing and the value.
        remedy: The remedy, as a sentence.
    """

    severity: Severity
    what: str
    remedy: str


def reader_problems(reader: Mapping[str, Any], not_ready: str) -> Iterator[Attention]:
    """Problems of the processes; arguments as the status document has them."""
    if reader["draining"]:
        yield Attention(
            "critical", "The reader is draining: it got a signal to stop.", "It ends by itself; start another one."
        )
    elif not_ready:
        yield Attention("critical", f"Not ready: {not_ready}", "A load balancer sends it nothing until it is ready.")
    workers = reader["workers"]
    ago_s = workers["restarted_s_ago"]
    if workers["alive"] < workers["wanted"]:
        what = f"{workers['alive']} of {workers['wanted']} workers are alive."
        yield Attention("warning", what, "Missing ones start by themselves; if not, the reader's log has the cause.")
    elif ago_s is not None and ago_s < LATELY_S:
        what = (
            f"A worker ended unexpectedly {max(1, ago_s // 60)} min ago and was replaced, {workers['restarts']} so far."
        )
        yield Attention("warning", what, "The reader's log has the cause.")


def version_problems(row: Mapping[str, Any]) -> Iterator[Attention]:
    """Problems of a pipeline or view, a row of `version_rows`."""
    name, version, state = row["name"], row["version"], row["state"]
    repair = f"Run `forecache verify`, then `forecache publish {name}`; on a replica, `forecache pull --verify`."
    if state == "damaged":
        yield Attention("critical", f"Every version of {name} is damaged; requests to it fail.", repair)
    elif state == "unreadable":
        yield Attention(
            "critical", f"The published version of {name} cannot be read; the reader's log has the cause.", repair
        )
    elif state == "fallback":
        what = f"Version {row['fallback_for']} of {name} is damaged, so version {version} is served instead."
        yield Attention("warning", what, repair)
    elif state == "waiting":
        yield Attention("warning", f"{name} has no published version yet.", f"Run `forecache publish {name}`.")
    elif row["old_publish"]:
        what = f"The current version of {name} cannot be opened; version {version} stays served."
        yield Attention("warning", what, repair)
    run = f"Run `forecache run {name}`; `forecache doctor` checks what it needs."
    if row["refused"]:
        has_ended = row["source_end"] is not None and row["as_of"] >= row["source_end"]
        ended = f'Its sources ended on {row["source_end"]}: declare `on_stale="flag"` and publish it.'
        what = f"{name} is as of {row['as_of']}, older than its declaration allows, and is refused."
        yield Attention("critical", what, ended if has_ended else run)
    elif row["overdue"]:
        what = f"{name} is stale: as of {row['as_of']}, and its declaration allows {row['max_age_h']:g} h."
        yield Attention("warning", what, run)


def sort_by_severity(found: Sequence[Attention]) -> list[Attention]:
    """Problems sorted by severity, the critical ones first."""
    return sorted(found, key=lambda each: each.severity != "critical")
