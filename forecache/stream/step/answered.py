"""What a step makes of a batch of messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Answered:
    """
    Attributes:
        rows: `forecache.stream.record.schema_of` without repeats, in the order of the messages; `position`, `place` and
            `hour` are null: the commit gives them.
        live: By view, the keys that the batch touched, each once, with the time of its newest event in the batch
            (microseconds since 1970) and its encoded tiles afterwards.
        bad: `forecache.stream.record.QUARANTINE`, of which the contents are whole.
        repeats: How many events were there before.
        late: How many rows are.
        unknown: How many events have members that are not declared.
        failed: How many rows have no answer, since transform or model failed on them; `failure` says how the last did.
    """

    rows: pa.Table
    live: Mapping[str, Sequence[tuple[bytes, int, bytes]]]
    bad: pa.Table
    repeats: int = 0
    late: int = 0
    unknown: int = 0
    failed: int = 0
    failure: str = ""
