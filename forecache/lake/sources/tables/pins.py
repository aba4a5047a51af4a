"""The existing tables of a run, each pinned once, so that its stage compares, reads and records the same state."""

from collections.abc import Iterable
from typing import Any

from forecache.base.settings import Settings
from forecache.declare import AnySource, TableSource
from forecache.kit.delta.tables import resolve_place
from forecache.lake.sources.tables.delta_source import pin_delta
from forecache.lake.sources.tables.parquet_source import pin_parquet
from forecache.lake.sources.tables.pinned_table import PinnedTable


class Pins:
    """Pins existing tables, each at the first request for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pinned: dict[str, PinnedTable] = {}

    def pin(self, source: TableSource) -> PinnedTable:
        """Pin a table, or return the state pinned by an earlier call; raises as `pin_delta`."""
        if source.name not in self._pinned:
            pin = pin_delta if source.format == "delta" else pin_parquet
            self._pinned[source.name] = pin(source, resolve_place(self._settings, source.uri))
        return self._pinned[source.name]

    def details(self, sources: Iterable[AnySource]) -> dict[str, Any]:
        """`pinned` for the ledger: URI and version, or number of files, of each existing table; {} without one."""
        tables = {source.name: self.pin(source).details() for source in sources if isinstance(source, TableSource)}
        return {"pinned": tables} if tables else {}
