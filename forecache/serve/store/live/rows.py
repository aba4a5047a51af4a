"""A row of the live layer, and its record: position and event time (int64), length of the provenance (uint32), all
little-endian, then the provenance and the value.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

PENDING = (1 << 63) - 1
"""The position of a row before its commit: above every cut-off."""

_HEAD = struct.Struct("<qqI")
_unpack: Callable[[bytes], tuple[int, int, int]] = _HEAD.unpack_from
_VALUE = _HEAD.size


@dataclass(frozen=True, slots=True)
class LiveRow:
    """The row of a key in the live layer.

    Attributes:
        position: Offset of the row: the Delta version of the stream's table with it; PENDING before its commit.
        event_us: Time of its event, in microseconds of Unix time. Of tiles, that of their newest event.
        value: Of rows, the JSON object of the served fields. Of tiles, the encoded tiles of the key.
        provenance: A JSON object whose members are copied into the answer, such as the model's version; may be empty.
            Of pending tiles instead a JSON list of the Kafka offsets after their events, by partition.
    """

    position: int
    event_us: int
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
    """The row that `record_of` wrote."""
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
    """The position and the event time of a record."""
    return _unpack(record)[:2]
