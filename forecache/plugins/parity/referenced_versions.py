"""Finds the releases, store versions and rows of streams that the answers of a day refer to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.delta.files import place_of
from forecache.kit.delta.read_errors import open_data_file
from forecache.plugins.parity.live.live_lookups import NeededRows, needed_rows_of
from forecache.plugins.parity.row_group import LogRowGroup
from forecache.plugins.parity.store_versions import StoreVersion, distinct_versions
from forecache.realtime.log.record import table_of
from forecache.realtime.release.folder import open_releases, read_release

_COLUMNS = ("release", "stores", "live")


@dataclass
class ReferencedVersions:
    """References of logged answers.

    Attributes:
        live: By live view, the rows of its stream that were looked up.
    """

    releases: set[int] = field(default_factory=set)
    versions: set[StoreVersion] = field(default_factory=set)
    live: dict[str, NeededRows] = field(default_factory=dict)

    def add_needed_rows(self, more: Mapping[str, NeededRows]) -> None:
        for view, need in more.items():
            self.live[view] = self.live[view].merge(need) if view in self.live else need


def find_referenced_versions(settings: Settings, name: str, pieces: Sequence[LogRowGroup]) -> ReferencedVersions:
    """Find the references of the answers in some row groups of a log; one row group is in memory at a time."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    named = ReferencedVersions()
    filesystem = place_of(settings, table_of(name)).open()
    for piece in pieces:
        with open_data_file(filesystem, piece.path, table_of(name)) as source:
            file = pq.ParquetFile(source)
            # A file from before a column was added lacks it.
            columns = [column for column in _COLUMNS if column in file.schema_arrow.names]
            rows = file.read_row_group(piece.row_group, columns, use_threads=False)
        named.releases |= set(pc.unique(rows["release"]).to_pylist())
        stores = rows["stores"].combine_chunks()
        named.versions |= distinct_versions(stores)
        if "live" in columns:
            named.add_needed_rows(needed_rows_of(stores, rows["live"].combine_chunks()))
    return named


def contracts_of(settings: Settings, name: str, releases: Iterable[int]) -> dict[str, set[str]]:
    """Return by view the contracts that releases have for it."""
    found: dict[str, set[str]] = {}
    for number in releases:
        try:
            release = read_release(open_releases(settings, name), number)
        except ForecacheError:
            continue
        for lookup in release.lookups:
            found.setdefault(lookup.view, set()).add(lookup.contract)
    return found
