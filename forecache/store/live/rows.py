"""A row of the live layer, and its record: position and event time (int64), length of the provenance (uint32), all
little-endian, then the provenance and the value.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

PENDING = (1 << 63) - 1
"""The position of a row that no commit holds yet: above every cut."""

_HEAD = struct.Struct("<qqI")
_unpack: Callable[[bytes], tuple[int, int, int]] = _HEAD.unpack_from
_VALUE = _HEAD.size


@dataclass(frozen=True, slots=True)
class LiveRow:
    """What a stream says of a key.

    Attributes:
        position: Delta version of the stream's table that holds it; PENDING where none does yet.
        event_us: Time of its event, in microseconds of Unix time. Of tiles, that of their newest event.
        value: Of rows, the JSON object of the served fields. Of tiles, the encoded tiles of the key.
        provenance: A JSON object whose members the answer repeats, such as the model's version; may be empty. Of
            pending tiles, which no answer repeats: a JSON list of the offsets behind their events, by partition.
    """

    position: int
    event_us: int
    value: bytes
    provenance: bytes = b""

    @property
    def is_pending(self) -> bool:
        return self.position == PENDING


def record_of(row: LiveRow, number: int | None = None) -> bytes:
    """The record of a row; `number` is in the place of its position, where there is one."""
    first = row.position if number is None else number
    return _HEAD.pack(first, row.event_us, len(row.provenance)) + row.provenance + row.value


Found = tuple[int, int, bytes, bytes]
"""What a row says, without the time that it takes to make one: position, event_us, value, provenance."""


def row_of(record: bytes) -> LiveRow:
    """The row that `record_of` wrote."""
    return LiveRow(*found_of(record))


def found_of(record: bytes) -> Found:
    position, event_us, size = _unpack(record)
    end = _VALUE + size
    return position, event_us, record[end:], record[_VALUE:end]


def pending_of(record: bytes) -> Found:
    """As `found_of`, of a pending row, whose record has another number in the place of its position."""
    _, event_us, size = _unpack(record)
    end = _VALUE + size
    return PENDING, event_us, record[end:], record[_VALUE:end]


def times_of(record: bytes) -> tuple[int, int]:
    """The position and the event time of a record."""
    return _unpack(record)[:2]
