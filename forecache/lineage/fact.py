"""A fact: one piece of work that is recorded, as OpenLineage's event of a run will tell it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

_IDS = uuid.UUID("6f1b7a52-3d0e-5c41-9a57-0c5a1d2b7e90")
"""Of the names that make run ids (RFC 9562, version 5)."""


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset.

    Attributes:
        namespace, name: By OpenLineage's naming conventions.
        version: "" where it is not known.
        rows: None where they are not known.
        facets: Further ones, without `_producer` and `_schemaURL`.
    """

    namespace: str
    name: str
    version: str = ""
    rows: int | None = None
    facets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    """What one stage did at once.

    Attributes:
        source: Which record it was read from, such as "stage_ledger".
        position: Where in that record: facts of a source are told in its order.
        identity: Names the fact within its source.
        nights: As-of dates, ascending; none where the stage has none.
        run_id: Of the orchestrator's run, "" where there was none.
        details: For the facet `forecache_stage`.
        error: Why it failed; "" where it did not.
    """

    source: str
    position: Any
    identity: str
    stage: str
    subject: str
    nights: Sequence[date]
    run_id: str
    code_version: str
    ended_at: datetime
    seconds: float
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def job(self) -> str:
        return f"{self.stage}.{self.subject}"

    @property
    def started_at(self) -> datetime:
        return self.ended_at - timedelta(seconds=self.seconds)

    def event_run_id(self, lake: str) -> str:
        """The same each time that the fact is told: a receiver takes a repeat for what it is."""
        return named_run_id(lake, self.source, self.identity)


def named_run_id(*names: str) -> str:
    """The run id that these names make."""
    return str(uuid.uuid5(_IDS, "\0".join(names)))


def parent_run_id(run_id: str) -> str:
    """The orchestrator's run id, which is a UUID, or one made from it."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(_IDS, run_id))
