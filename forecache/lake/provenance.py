"""The columns that every prediction table has behind its own: which model made a row, from what, when, in which run.

Spark's Python workers import it, so it imports nothing of the declarations.
"""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

PROVENANCE_FIELDS = (
    pa.field("model_name", pa.string()),
    pa.field("model_version", pa.int32()),
    pa.field("feature_version", pa.int64()),
    pa.field("scored_at", pa.timestamp("us", tz="UTC")),
    pa.field("run_id", pa.string()),
)


@dataclass(frozen=True)
class Stamp:
    """Provenance of every row of a run: the model, the time and the run."""

    model_name: str
    model_version: int
    scored_at: datetime
    run_id: str
