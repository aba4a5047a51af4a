"""A publish in progress: the state that full and incremental publishes share, its gates, and its verification."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from forecache.base.errors import CheckError
from forecache.base.files import move_durably, sync
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.base.statistics import bin_counts, psi, quantile_edges
from forecache.base.steps import publish_step
from forecache.declare import Publish, Served
from forecache.declare.served import max_age_h
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import EntryEncoding
from forecache.serve.store.encoding.prediction_source import NightSource
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.manifest import Field, Manifest, SegmentInfo, ShardInfo, StalePolicy, current_timestamp
from forecache.serve.store.publishing.overlay import Overlay
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.store import Store

_NUMBERS_OF_AN_ITEM = 12


@dataclass(frozen=True)
class Publication:
    settings: Settings
    pipeline: Served
    store: Store
    source: NightSource
    key: KeySchema
    fields: tuple[Field, ...]
    states: tuple[Field, ...]
    store_id: str
    version: int
    current: Manifest | None  # what the gates compare with, and a small segment is built on
    inputs: str
    run_id: str
    code_version: str
    progress: Progress
    overlay: Overlay | None = None  # streamed rows over the batch; None without a stream

    @property
    def published(self) -> Manifest:
        """The current version, which an incremental publish has."""
        assert self.current is not None
        return self.current

    @property
    def num_streamed(self) -> int:
        return 0 if self.overlay is None else self.overlay.num_rows

    @property
    def has_new_model(self) -> bool:
        """Tell if the current version is of another model, whose scores the gate has compared."""
        return self.current is not None and self.current.provenance.model != self.encoding.provenance.model

    @cached_property
    def encoding(self) -> EntryEncoding:
        """The encoding of the rows, with their most frequent provenance as the version's."""
        return EntryEncoding(
            self.key, self.fields, self.source.provenance, self.pipeline.packed is not None, self.states
        )

    def values_of(self, rows: int) -> int:
        """The size of so many rows for the choice of shards, in items of lists in JSON."""
        if self.pipeline.packed is not None:
            return rows * sum(field.size for field in self.encoding.stored_fields) // _NUMBERS_OF_AN_ITEM
        return self.source.values_of(rows)

    @cached_property
    def staging(self) -> Path:
        """The work folder of this publish, new and empty."""
        folder = self.store.layout.staging / f"{self.version:08d}"
        folder.mkdir()
        return folder

    def create_segment(self, kind: str) -> Path:
        """Create the folder of a new segment, whose name is unique among all stores that a replica may pull from."""
        name = hashing.short_name(self.store_id + self.inputs + current_timestamp())
        folder = self.staging / f"{self.version:08d}-{kind}-{name}"
        folder.mkdir()
        return folder

    def move_segment(self, folder: Path) -> None:
        """Put a finished segment in its place; no manifest names it yet, so a crash leaves only garbage."""
        sync(folder)
        move_durably(folder, self.store.layout.segment(folder.name))

    def manifest(
        self,
        *,
        kind: str,
        segments: tuple[SegmentInfo, ...],
        content_sum: int,
        filter_file: ShardInfo | None = None,
        **figures: Any,
    ) -> Manifest:
        """The manifest of a version with these segments; `figures` are its fields that depend on the rows."""
        packed = self.pipeline.packed
        return Manifest(
            pipeline=self.pipeline.name,
            store=self.store_id,
            version=self.version,
            parent=self.current.version if self.current else None,
            kind=kind,
            segments=segments,
            tombstones=sum(segment.tombstones for segment in segments),
            content_hash=hashing.to_hex(content_sum),
            key=self.key,
            fields=self.fields,
            source=self.source.source,
            policy=StalePolicy(max_age_h(self.pipeline), self.pipeline.publishing.on_stale),
            published_at=current_timestamp(),
            code_version=self.code_version,
            run_id=self.run_id,
            inputs=self.inputs,
            filter=filter_file,
            layout="json" if packed is None else "packed",
            contract="" if packed is None else packed.contract,
            states=self.states,
            stream="" if self.overlay is None else self.overlay.stream,
            # Tiles are merged by day when rows are read: no cut-off hides them.
            cut=-1 if self.overlay is None or self.overlay.is_merged else self.overlay.cut,
            streamed=self.num_streamed,
            source_end=None if self.pipeline.end is None else self.pipeline.end.isoformat(),
            **figures,
        )


@dataclass
class PendingVersion:
    """A version whose segments are in place and verified, but which no pointer names."""

    manifest: Manifest
    details: dict[str, Any]


def require_equal(publication: Publication, source: tuple[int, int], read: Iterable[tuple[int, int]]) -> None:
    """Raise CheckError if (rows, content sum) of the source are not those of the parts that a reader reads together."""
    parts = list(read)
    rows, total = sum(rows for rows, _ in parts), hashing.add(*(total for _, total in parts))
    if source != (rows, total):
        raise CheckError(
            f"Version {publication.version} does not read back as the source has it: {rows:,} rows of {source[0]:,},"
            f" content hash {hashing.to_hex(total)} where the source has {hashing.to_hex(source[1])}.",
            remedy="Nothing was published. Publish again, with --full if it repeats.",
        )
    publish_step("verified")


_BINS = 20
_ROWS_OF_A_BIN = 10  # fewer and chance alone fills or empties bins, which moves the stability index most


def publish_statistics(rows: int, nulls: Mapping[str, int], samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Statistics of the batch for the next version's gates: rows, nulls, and histograms, scaled to all values."""
    histograms = {name: _histogram(rows - nulls[name], values) for name, values in samples.items()}
    return {"rows": rows, "nulls": dict(nulls), "histograms": histograms}


def _histogram(rows: int, values: np.ndarray) -> dict[str, list[float]]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return {"edges": [], "counts": [0.0]}
    edges = quantile_edges(finite, min(_BINS, max(2, len(finite) // _ROWS_OF_A_BIN)))
    return {"edges": edges.tolist(), "counts": (bin_counts(edges, finite) * (rows / len(finite))).tolist()}


def measure_drift(current: Manifest, samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """PSI of each numeric field's new values against the current version."""
    histograms = current.statistics.get("histograms", {})
    return {
        name: psi(histograms[name]["counts"], bin_counts(histograms[name]["edges"], values))
        for name, values in samples.items()
        if name in histograms
    }


def check_gates(
    rules: Publish, *, current: Manifest | None, rows: int, nulls: Mapping[str, int], drifted: Mapping[str, float]
) -> None:
    """Raise CheckError naming every gate that fails."""
    reasons = []
    before = 0 if current is None else current.statistics["rows"]
    if rules.max_row_change is not None and before:
        change = abs(rows - before) / before
        if change > rules.max_row_change:
            reasons.append(
                f"the rows go from {before:,} to {rows:,}, a change of {change:.0%}"
                f" (max_row_change {rules.max_row_change:.0%})"
            )
    most_nulls = rules.max_null_share or 0.0
    for name, count in nulls.items():
        if rows and count / rows > most_nulls:
            reasons.append(f"{count:,} of {rows:,} values of {name!r} are null (max_null_share {most_nulls:g})")
    if rules.max_psi is not None:
        reasons += [
            f"{name!r} has drifted from version {current.version if current else '?'} by a population stability index"
            f" of {value:.3f} (max_psi {rules.max_psi:g})"
            for name, value in drifted.items()
            if value > rules.max_psi
        ]
    if reasons:
        raise CheckError(
            f"The publish gates say no: {'; '.join(reasons)}.",
            remedy="The served version is unchanged. Look at the rows, or change `publish` in the declaration.",
        )


_BLOCK_ROWS, _PAUSE_S = 1_000, 1e-4
_EVERY = 32
Row = TypeVar("Row")


def read_back(snapshot: Snapshot, shard: int, *, paced: bool = False) -> tuple[int, int]:
    """(rows, content sum) of a base shard, read by the reader's code; the version has no deltas.

    Every key of LMDB's pages is looked up through the index, and every n-th once more through LMDB's tree; an entry
    counts only if both are equal.
    """
    rows = total = 0
    for keys in row_blocks(snapshot.base_keys(shard), paced=paced):
        entries = _entries(snapshot, keys)
        for place in range(0, len(keys), _EVERY):
            if snapshot.get_entry(keys[place]) != entries[place]:
                entries[place] = None
        rows += len(keys) - entries.count(None)
        total = hashing.add(total, hashing.content_sum(present_entries(keys, entries)))
    return rows, total


def _entries(snapshot: Snapshot, keys: list[bytes]) -> list[bytes | None]:
    """The entries of some keys; of a packed version through `matrix`, as its readers do."""
    if not snapshot.manifest.is_packed:
        return snapshot.get_entries(keys)
    rows, found = snapshot.matrix(keys)
    content, size = rows.tobytes(), rows.shape[1] * rows.itemsize
    starts = range(0, len(content), size)
    return [content[at : at + size] if there else None for at, there in zip(starts, found.tolist(), strict=True)]


def present_entries(keys: list[bytes], entries: list[bytes | None]) -> Iterable[tuple[bytes, bytes]]:
    if None not in entries:
        return zip(keys, cast("list[bytes]", entries), strict=True)
    return [(key, entry) for key, entry in zip(keys, entries, strict=True) if entry is not None]


def row_blocks(items: Iterator[Row], *, paced: bool) -> Iterator[list[Row]]:
    """The rows in small blocks, so that memory is reused; if `paced`, with a short sleep after each.

    Even a process of low priority keeps a core for a time slice of some milliseconds, for which a reader on the same
    core waits. A sleeping process releases it at once.
    """
    while block := list(islice(items, _BLOCK_ROWS)):
        yield block
        if paced:
            time.sleep(_PAUSE_S)
