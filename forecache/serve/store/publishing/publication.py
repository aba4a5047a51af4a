"""A publish in progress: the state that full and incremental publishes share."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from forecache.base.errors import CheckError
from forecache.base.files import move_durably, sync
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.base.steps import publish_step
from forecache.declare import Served
from forecache.declare.served import max_age_h
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import EntryEncoding
from forecache.serve.store.encoding.prediction_source import NightSource
from forecache.serve.store.fields import Field
from forecache.serve.store.keys import KeySchema
from forecache.serve.store.layout import remove_tree
from forecache.serve.store.manifest import Manifest, Provenance, SegmentInfo, ShardInfo, StalePolicy, current_timestamp
from forecache.serve.store.publishing.streamed.overlay import Overlay
from forecache.serve.store.store import Store

_NUMBERS_OF_AN_ITEM = 12


@dataclass(frozen=True)
class Publication:
    """The parameters of one call of `publish`.

    Attributes:
        current: The version that the gates compare with, and that a small segment is built on.
        overlay: The streamed rows over the batch; None if there is no stream.
    """

    settings: Settings
    pipeline: Served
    store: Store
    source: NightSource
    key: KeySchema
    fields: tuple[Field, ...]
    states: tuple[Field, ...]
    store_id: str
    version: int
    current: Manifest | None
    inputs: str
    run_id: str
    code_version: str
    progress: Progress
    overlay: Overlay | None = None

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

    def segment_id(self, kind: str) -> str:
        """An id of a new segment, unique for ever and among all stores that a replica may pull from."""
        return f"{self.version:08d}-{kind}-{hashing.short_name(self.store_id + self.inputs + current_timestamp())}"

    def move_segment(self, folder: Path, segment: SegmentInfo) -> None:
        """Put a finished segment in its place; no manifest names it yet, so a crash leaves only garbage."""
        sync(folder)
        move_durably(folder, self.store.layout.segment(segment.id))

    def manifest(
        self,
        *,
        kind: str,
        segments: tuple[SegmentInfo, ...],
        rows: int,
        content_sum: int,
        provenance: Provenance,
        provenances: dict[str, Provenance],
        carried: int,
        statistics: dict[str, Any],
        filter_file: ShardInfo | None,
    ) -> Manifest:
        packed = self.pipeline.packed
        return Manifest(
            pipeline=self.pipeline.name,
            store=self.store_id,
            version=self.version,
            parent=self.current.version if self.current else None,
            kind=kind,
            segments=segments,
            rows=rows,
            tombstones=sum(segment.tombstones for segment in segments),
            content_hash=hashing.to_hex(content_sum),
            key=self.key,
            fields=self.fields,
            source=self.source.source,
            provenance=provenance,
            provenances=provenances,
            carried=carried,
            policy=StalePolicy(max_age_h(self.pipeline), self.pipeline.publishing.on_stale),
            published_at=current_timestamp(),
            code_version=self.code_version,
            run_id=self.run_id,
            inputs=self.inputs,
            statistics=statistics,
            filter=filter_file,
            layout="json" if packed is None else "packed",
            contract="" if packed is None else packed.contract,
            states=self.states,
            stream="" if self.overlay is None else self.overlay.stream,
            # Tiles are merged by day when rows are read: no cut-off hides them.
            cut=-1 if self.overlay is None or self.overlay.is_merged else self.overlay.cut,
            streamed=0 if self.overlay is None else self.overlay.num_rows,
            source_end=None if self.pipeline.end is None else self.pipeline.end.isoformat(),
        )

    def clean_up(self) -> None:
        remove_tree(self.staging)


@dataclass
class PendingVersion:
    """A version whose segments are in place and verified, but which no pointer names."""

    manifest: Manifest
    details: dict[str, Any] = field(default_factory=dict)


def require_equal(publication: Publication, *, rows: tuple[int, int], sums: tuple[int, int]) -> None:
    """Compare row counts and content sums of the source with those that the reader reads: (source, read).

    Raises:
        CheckError: They differ; nothing was published.
    """
    if rows[0] != rows[1] or sums[0] != sums[1]:
        raise CheckError(
            f"Version {publication.version} does not read back as the source has it: {rows[1]:,} rows of {rows[0]:,},"
            f" content hash {hashing.to_hex(sums[1])} where the source has {hashing.to_hex(sums[0])}.",
            remedy="Nothing was published. Publish again, with --full if it repeats.",
        )
    publish_step("verified")
