"""The result of a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Answered:
    """The rows, tiles and counts of a batch of messages.

    Attributes:
        rows: `forecache.stream.table_schema.schema_of` without duplicates, in the order of the messages; `position`,
            `place` and `hour` are null until the commit.
        live: By view, each key with an event in the batch, the time of its newest event there (microseconds since 1970)
            and its encoded tiles after the batch.
        bad: `forecache.stream.table_schema.QUARANTINE` with whole contents.
        repeats: Number of duplicate events, which were dropped.
        late: Number of late rows.
        unknown: Number of events with undeclared members.
        failed: Number of rows without an answer because the transform or the model failed on them.
        failure: The error of the last of these.
    """

    rows: pa.Table
    live: Mapping[str, Sequence[tuple[bytes, int, bytes]]]
    bad: pa.Table
    repeats: int = 0
    late: int = 0
    unknown: int = 0
    failed: int = 0
    failure: str = ""
