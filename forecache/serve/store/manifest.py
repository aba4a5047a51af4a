"""The manifest of a version: all of its metadata, so that a reader needs nothing else; and its JSON.

It is written once. Times are ISO 8601 in UTC ending in `Z`, dates `YYYY-MM-DD`, hashes lower-case hex.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from functools import cached_property
from typing import Any

import xxhash

from forecache.base.errors import NotFoundError, UnavailableError
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.serve.store.keys import KeyColumn, KeySchema

NUMERIC = ("double", "bigint", "float", "integer")  # types of fields that are one number
STATE = "state"


@dataclass(frozen=True)
class Field:
    """A served field.

    Its type is "double", "bigint", "boolean", "string", "date" or "timestamp"; "array<T>" for lists of one of these or
    of "float", and "array<struct<name:T,...>>" for lists of structures of these. In a packed version all numbers are
    float32: of a "float", an "integer", and a "vector" of `size` of them; a "state" is the bits of an int64 or a
    float64, in two.
    """

    name: str
    type: str
    size: int = 1

    @property
    def description(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, **({"size": self.size} if self.type == "vector" else {})}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its numbers in a packed row."""
        return tuple(f"{self.name}_{i}" for i in range(self.size)) if self.type == "vector" else (self.name,)

    @property
    def holds_structs(self) -> bool:
        return self.type.startswith("array<struct<")


FORMAT = 6


@dataclass(frozen=True)
class ShardInfo:
    """One file of a segment; `checksum` is the XXH3-128 of its bytes.

    An LMDB file ends with the checksums of its blocks, see `forecache.kit.versioned.blocks`; `sums` is that of them.
    """

    file: str
    entries: int
    size_bytes: int
    checksum: str
    sums: str = ""


@dataclass(frozen=True)
class SegmentInfo:
    id: str  # name of its folder, unique for ever
    kind: str  # "base", or "delta" whose entries hide those of older segments
    entries: int  # its keys, including tombstones
    tombstones: int  # keys that it removes
    shards: tuple[ShardInfo, ...]  # LMDB files; the shard of a key is `xxh3_64(key) & (len(shards) - 1)`
    hashes: ShardInfo | None = None  # sorted key hashes of a delta, from which filters are made

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards) + (self.hashes.size_bytes if self.hashes else 0)


@dataclass(frozen=True)
class Provenance:
    """Origin of a prediction. A row has one of its own only if it differs from the version's."""

    model_name: str
    model_version: int
    feature_version: int
    scored_at: str  # of a streamed row its hour, so that few rows differ
    run_id: str
    as_of: str = ""  # of a streamed row; "": that of the version

    @property
    def model(self) -> tuple[str, int]:
        return self.model_name, self.model_version

    @property
    def id(self) -> str:
        """Sixteen hex digits that name this provenance in the rows that carry it."""
        parts = {name: value for name, value in asdict(self).items() if name != "as_of" or value}
        return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True).encode())

    @property
    def made_by(self) -> dict[str, Any]:
        """The members `model` and `scored_at` of answers; empty for features, which have no model."""
        if not self.model_name:
            return {}
        return {"model": {"name": self.model_name, "version": self.model_version}, "scored_at": self.scored_at}


@dataclass(frozen=True)
class TableSource:
    """The lake table that was published: rows of one as-of date at one Delta version."""

    table: str
    uri: str
    delta_version: int
    as_of: str


@dataclass(frozen=True)
class StalePolicy:
    """Handling of answers whose as-of date is too old; see `forecache.Publish`."""

    max_age_h: float
    on_stale: str


@dataclass(frozen=True)
class Manifest:
    """One version of a pipeline's store."""

    pipeline: str
    store: str  # identity of the store that it was published in, see `Pointer`
    version: int
    parent: int | None  # the version that was current when this one was published
    kind: str  # "full", "incremental", or "compacted": an incremental one, merged with those below it
    segments: tuple[SegmentInfo, ...]  # from the oldest (the base) to the newest
    rows: int  # keys that a reader finds
    tombstones: int  # over all segments
    content_hash: str  # sum modulo 2**128 of XXH3-128 over `key, 0x00, entry` of every row
    key: KeySchema
    fields: tuple[Field, ...]
    source: TableSource
    provenance: Provenance  # of every row without one of its own
    policy: StalePolicy
    published_at: str
    code_version: str
    run_id: str
    inputs: str  # all that the content depends on; a publish with the same ones is skipped
    provenances: Mapping[str, Provenance] = field(default_factory=dict)  # those of the other rows, by `id`
    carried: int = 0  # rows that have a provenance of their own
    statistics: Mapping[str, Any] = field(default_factory=dict)  # of the batch, for the publish gates
    filter: ShardInfo | None = None
    layout: str = "json"  # "packed": an entry is the float32 numbers of all fields
    contract: str = ""  # of a packed version, see `forecache.declare.served.PackedLayout`
    states: tuple[Field, ...] = ()  # of a live view, columns of 8 bytes after the fields; copied, never shown
    stream: str = ""  # of the live layer above this version; "": none
    cut: int = -1  # cut-off: version of its table that this one includes; live rows above it answer
    streamed: int = 0  # rows that come from the stream and not from the batch
    source_end: str | None = None  # the last as-of date of the declared sources; None: they have no end
    format: int = FORMAT

    @property
    def identity(self) -> tuple[str, int]:
        """(store, version): identifies the version even after its store was removed and published anew."""
        return self.store, self.version

    @property
    def as_of(self) -> str:
        return self.source.as_of

    @property
    def made_by(self) -> dict[str, Any]:
        return self.provenance.made_by

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments) + (self.filter.size_bytes if self.filter else 0)

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def is_packed(self) -> bool:
        return self.layout == "packed"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Of a packed version, the names of the numbers that a row shows."""
        return tuple(column for field in self.fields for column in field.columns)

    @cached_property
    def width(self) -> int:
        """Of a packed version, float32 numbers of an entry: those of the fields, then the bits of the states."""
        return len(self.columns) + sum(state.size for state in self.states)

    @cached_property
    def as_of_end(self) -> datetime:
        """The midnight (UTC) that ended the as-of date, from which ages are counted."""
        return datetime.combine(date.fromisoformat(self.as_of) + timedelta(days=1), time(), timezone.utc)

    @cached_property
    def stale_after(self) -> datetime:
        return self.as_of_end + timedelta(hours=self.policy.max_age_h)

    @cached_property
    def overdue_after(self) -> datetime | None:
        """The moment by which a newer version has to be published; None if the sources have ended with this one.

        If stale answers are refused, requests fail, so the version is overdue in any case.
        """
        is_last = self.source_end is not None and self.as_of >= self.source_end
        return None if is_last and self.policy.on_stale != "refuse" else self.stale_after

    def is_overdue(self, now: datetime) -> bool:
        return self.overdue_after is not None and now >= self.overdue_after

    @cached_property
    def published_time(self) -> datetime:
        return datetime.fromisoformat(self.published_at.replace("Z", "+00:00"))

    def to_json(self) -> bytes:
        return dump_with_checksum(asdict(self))


def timestamp(moment: datetime) -> str:
    """A time in UTC as in manifests: `2026-11-25T01:38:37.120000Z`."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def current_timestamp() -> str:
    return timestamp(datetime.now(timezone.utc))


def manifest_from_json(content: bytes, *, what: str = "The manifest") -> Manifest:
    """Read a manifest of the file `what`; raises DamagedError, or UnavailableError for another store format."""
    data = load_with_checksum(content, what=what)
    if data.get("format") != FORMAT:
        raise UnavailableError(
            f"The manifest of {data['pipeline']} version {data['version']} has the format {data.get('format')}.",
            remedy=f"This Forecache reads format {FORMAT}: upgrade it, or where the store is the older one, remove the "
            "pipeline's store folder and publish again.",
        )
    data["key"] = KeySchema(tuple(KeyColumn(**column) for column in data["key"]["columns"]))
    data["fields"] = tuple(Field(**item) for item in data["fields"])
    data["states"] = tuple(Field(**item) for item in data.get("states", ()))
    data["segments"] = tuple(_segment(item) for item in data["segments"])
    data["source"] = TableSource(**data["source"])
    data["provenance"] = Provenance(**data["provenance"])
    data["provenances"] = {name: Provenance(**item) for name, item in data["provenances"].items()}
    data["policy"] = StalePolicy(**data["policy"])
    data["filter"] = ShardInfo(**data["filter"]) if data["filter"] else None
    return Manifest(**data)


def _segment(data: dict[str, Any]) -> SegmentInfo:
    shards = tuple(ShardInfo(**shard) for shard in data.pop("shards"))
    hashes = data.pop("hashes")
    return SegmentInfo(**data, shards=shards, hashes=ShardInfo(**hashes) if hashes else None)


def no_such_key_error(manifest: Manifest, key: str) -> NotFoundError:
    names = ", ".join(manifest.key.names)
    return NotFoundError(
        f"Version {manifest.version} of {manifest.pipeline} has no key {key!r}.",
        remedy=f"Its {manifest.rows:,} keys are values of {names}, known on {manifest.as_of}.",
    )
