"""A live layer: its declaration (the file LIVE; a store with it is live), its rows, and the state of its tailer.

The record of a row is its position and event time (int64) and the length of its provenance (uint32), little-endian,
then the provenance and the value.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import xxhash

from forecache.base.errors import UnavailableError
from forecache.base.files import write_durably
from forecache.base.table_names import NAME
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.serve.store.keys import KeyColumn, KeySchema
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Field

FORMAT = 1


@dataclass(frozen=True)
class LiveLayer:
    stream: str
    table: str  # a Delta table; offsets of rows are its versions
    kind: Literal["rows", "tiles"]  # "rows" replace a version's row, "tiles" are merged with it
    key: KeySchema
    fields: tuple[Field, ...]
    event_time: str = ""  # column of the table with the time of the event
    max_lag_s: float | None = None  # greatest lag at which a reader that has just started is ready; None: any
    plan: Mapping[str, Any] = field(default_factory=dict)  # of tiles: JSON of the windows' plan
    keep_h: float | None = None  # hours of event time; None: until a version's cut-off includes a row
    format: int = FORMAT

    @property
    def replaces_rows(self) -> bool:
        """True if rows replace those of a version; False if they are of keys that no version has, or are merged."""
        return self.kind == "rows" and self.keep_h is None

    @property
    def values_id(self) -> str:
        """Hash of all that the values of rows depend on: values with another hash must not be used."""
        parts = (
            self.kind,
            self.replaces_rows,
            asdict(self.key),
            [asdict(each) for each in self.fields],
            self.event_time,
            self.plan,
        )
        return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())

    def to_json(self) -> bytes:
        return dump_with_checksum(json.loads(json.dumps(asdict(self))))


def layer_from_json(content: bytes, *, what: str = "The file LIVE") -> LiveLayer:
    """Read the file; raises DamagedError or, if a Forecache with another format wrote it, UnavailableError."""
    data = load_with_checksum(content, what=what)
    if data.get("format") != FORMAT:
        raise UnavailableError(
            f"{what} has the format {data.get('format')}.", remedy=f"This Forecache reads format {FORMAT}: upgrade it."
        )
    data["key"] = KeySchema(tuple(KeyColumn(**column) for column in data["key"]["columns"]))
    data["fields"] = tuple(Field(**item) for item in data["fields"])
    return LiveLayer(**data)


def read_layer(layout: StoreLayout) -> LiveLayer | None:
    """The live layer of a store, None if it has none; raises as `layer_from_json`."""
    try:
        content = layout.live.read_bytes()
    except FileNotFoundError:
        return None
    return layer_from_json(content, what=f"The file {layout.live}")


def list_stores_with_layers(store_path: Path) -> list[str]:
    found = (path.parent.name for path in store_path.glob("*/LIVE"))
    return sorted(name for name in found if NAME.fullmatch(name))


def write_layer(layout: StoreLayout, layer: LiveLayer) -> None:
    """Write the file LIVE of a store, unless it is equal already."""
    layout.streamed_folder.mkdir(parents=True, exist_ok=True)
    content = layer.to_json()
    if not layout.live.exists() or layout.live.read_bytes() != content:
        write_durably(layout.live, content)


PENDING = (1 << 63) - 1
"""The position of a row before its commit: above every cut-off."""

_HEAD = struct.Struct("<qqI")
_unpack: Callable[[bytes], tuple[int, int, int]] = _HEAD.unpack_from
_VALUE = _HEAD.size


@dataclass(frozen=True, slots=True)
class LiveRow:
    """The row of a key in the live layer.

    The value is the JSON object of the served fields or, of tiles, the encoded tiles of the key. The provenance is a
    JSON object whose members are copied into the answer, such as the model's version; it may be empty. Of pending tiles
    it is instead a JSON list of the Kafka offsets after their events, by partition.
    """

    position: int  # Delta version of the stream's table with it; PENDING before its commit
    event_us: int  # microseconds of Unix time; of tiles, that of their newest event
    value: bytes
    provenance: bytes = b""

    @property
    def is_pending(self) -> bool:
        return self.position == PENDING


def record_of(row: LiveRow, number: int | None = None) -> bytes:
    """Encode a row as a record; `number`, if given, replaces its position."""
    first = row.position if number is None else number
    return _HEAD.pack(first, row.event_us, len(row.provenance)) + row.provenance + row.value


Found = tuple[int, int, bytes, bytes]
"""(position, event_us, value, provenance) of a row: a tuple, as it is faster to create than a LiveRow."""


def row_of(record: bytes) -> LiveRow:
    return LiveRow(*found_of(record))


def found_of(record: bytes) -> Found:
    position, event_us, size = _unpack(record)
    end = _VALUE + size
    return position, event_us, record[end:], record[_VALUE:end]


def found_of_pending(record: bytes) -> Found:
    """As `found_of`, for a pending row, whose record has another number instead of its position."""
    _, event_us, size = _unpack(record)
    end = _VALUE + size
    return PENDING, event_us, record[end:], record[_VALUE:end]


def times_of(record: bytes) -> tuple[int, int]:
    return _unpack(record)[:2]


_FILE = "tail.json"


@dataclass
class TailState:
    """Figures of a tailer, as of `written_at`. Times are Unix times; 0: never."""

    pid: int = 0
    written_at: float = 0.0
    table_id: str = ""  # of the stream's table that the layer was filled from
    applied: int = -1  # Delta version that the layer has applied; the table's own is in its counters
    caught_up_at: float = 0.0  # the layer had all rows of the table
    verified_at: float = 0.0  # its content was found equal to the table's
    unverified_since: float = 0.0  # it has content that was not compared; 0: it has none
    comparing_since: float = 0.0  # start of the comparison in progress; 0: there is none
    compares_all: bool = False  # that comparison reads all rows, as the first one of a process does
    comparison_s: float = 0.0  # duration of the last one, whatever its result
    compared_every_s: float = 0.0  # from the start of one comparison to that of the next
    differed: int = 0  # number of comparisons that found a difference, and the layer was filled again
    differed_at: float = 0.0
    difference: str = ""  # the last one, as a sentence
    gaps: int = 0  # times that entries of the Delta log were missing, and the table was read instead
    failing_since: float = 0.0  # 0: it does not fail
    failure: str = ""  # the reason, as a sentence

    def record_versions(self, applied: int, *, verified: int, now: float) -> None:
        """Record the Delta versions up to which the layer has applied the table and was found equal to it."""
        self.written_at, self.applied = now, applied
        if verified >= applied:
            self.unverified_since = 0.0
        elif not self.unverified_since:
            self.unverified_since = now


def read_tail_state(layout: StoreLayout) -> TailState:
    """The last state that a tailer wrote; an empty one if none ran here."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((layout.streamed_folder / _FILE).read_bytes())
        known = {each.name for each in fields(TailState)}
        return TailState(**{name: value for name, value in found.items() if name in known})
    return TailState()


def write_tail_state(layout: StoreLayout, state: TailState) -> None:
    """Replace the state atomically, without a flush: a crash of the machine may lose it, a full disk keeps it."""
    path = layout.streamed_folder / _FILE
    temporary = path.with_name(f".{_FILE}.{os.getpid()}.tmp")
    with suppress(OSError):
        temporary.write_text(json.dumps(asdict(state)))
        os.replace(temporary, path)
