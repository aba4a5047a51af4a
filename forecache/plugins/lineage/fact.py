"""A fact: one recorded piece of work, from which the OpenLineage events of a run are made."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

_IDS = uuid.UUID("6f1b7a52-3d0e-5c41-9a57-0c5a1d2b7e90")
"""Namespace of the UUIDs that are run ids (RFC 9562, version 5)."""


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset.

    Attributes:
        namespace, name: By OpenLineage's naming conventions.
        version: "" if unknown.
        rows: None if unknown.
        facets: Further facets, without `_producer` and `_schemaURL`.
    """

    namespace: str
    name: str
    version: str = ""
    rows: int | None = None
    facets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    """Work that one stage did in one go.

    Attributes:
        source: The record it was read from, such as "stage_ledger".
        position: Position in that record; facts of a source are sent in this order.
        identity: Unique within the source.
        nights: As-of dates, ascending; empty for a stage without them.
        run_id: Of the orchestrator's run, "" without one.
        details: For the facet `forecache_stage`.
        error: Reason of a failure, "" without one.
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
        """The run id, equal each time that the fact is sent, so that a receiver recognises a duplicate."""
        return named_run_id(lake, self.source, self.identity)


def named_run_id(*names: str) -> str:
    """The run id that is derived from these names."""
    return str(uuid.uuid5(_IDS, "\0".join(names)))


def parent_run_id(run_id: str) -> str:
    """The orchestrator's run id, which is a UUID, or one made from it."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(_IDS, run_id))
