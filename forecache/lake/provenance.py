"""The columns that every prediction table has behind its own: which model made a row, from what, when, in which run.

Spark's Python workers import it, so it imports nothing of the declarations.
"""

import pyarrow as pa

PROVENANCE_FIELDS = (
    pa.field("model_name", pa.string()),
    pa.field("model_version", pa.int32()),
    pa.field("feature_version", pa.int64()),
    pa.field("scored_at", pa.timestamp("us", tz="UTC")),
    pa.field("run_id", pa.string()),
)
