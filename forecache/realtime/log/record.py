"""The schema of the request log; `forecache.declare.realtime.request_rows` decodes its columns.

The table `request_log_<name>` of the lake has a row for each logged answer, and is partitioned by day.
"""

from functools import cache
from typing import TYPE_CHECKING

from forecache.base.table_names import REQUEST_LOG

if TYPE_CHECKING:
    import pyarrow as pa

ARMS = ("current", "canary", "control", "aa", "shadow", "loading")
"""Arms: the current release, a canary, the current release as second arm of an A/A test, a shadow that is never sent,
or the current release in place of a canary that was still loading."""
TIMES = ("wait_us", "parse_us", "lookup_us", "transform_us", "model_us", "ladder_us", "total_us")
"""Microseconds of the stages, and from the arrival of the request until its answer was written."""
DAY = "day"


def table_of(name: str) -> str:
    """Return the name of a model's request log table."""
    return REQUEST_LOG + name


@cache
def schema() -> "pa.Schema":
    """The columns of a request log.

    request_id: As the client sent it, else assigned by the reader and returned in the answer.
    arrived_at, day: When the request arrived, and the date of that in UTC.
    key: Values of `Log.by` as the store encodes keys.
    request: The request as the reader's own JSON; `forecache.realtime.log.logged_request` reads it.
    items: Number of candidates; 1 if the model ranks none.
    release, model_version, arm: The release, model and arm that answered.
    features: float32, little-endian, [items, num_features] as the model got them, C order; null if it was not called.
    scores, score_dtype: [items] in the order of the request, in this numpy dtype; null if there are none.
    rung: The last fallback that a candidate comes from; "model" if the model scored all.
    rungs, ranking: Only if candidates come from several fallbacks: that of each, in the order of the request, and the
        indices of the candidates in the request, best first.
    why: Reason why the model did not answer; "" if it did.
    flags: Faults of the model's input.
    stores: The versions that the answer comes from: store (its identity), table and delta_version identify their data.
    live: For look-ups of live views, beside the version in `stores`: at_us, the time in microseconds; position, the
        Delta version of the stream's table up to which their keys had events (-1: none); layer, which identifies the
        live layer's declaration. pending has the keys, by index in the look-up, whose newest events were not
        committed yet, with the Kafka offset of each partition after their events. Null in rows of older logs.
    late: True if the deadline had passed.
    deadline_ms: As granted.
    replica: host:port#worker.
    """
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    store = [("name", text), ("version", whole), ("as_of", text), ("age_s", whole)]
    source = [("store", text), ("table", text), ("delta_version", whole)]
    pending = pa.list_(pa.struct([("key", pa.int32()), ("offsets", pa.list_(whole))]))
    live = [("lookup", text), ("view", text), ("at_us", whole), ("position", whole), ("layer", text)]
    return pa.schema(
        [
            ("request_id", text),
            ("arrived_at", pa.timestamp("us", tz="UTC")),
            (DAY, pa.date32()),
            ("key", text),
            ("request", pa.binary()),
            ("items", pa.int32()),
            ("release", whole),
            ("model_version", whole),
            ("arm", text),
            ("features", pa.binary()),
            ("scores", pa.binary()),
            ("score_dtype", text),
            ("rung", text),
            ("rungs", pa.list_(text)),
            ("ranking", pa.list_(pa.int32())),
            ("why", text),
            ("flags", pa.list_(text)),
            ("stores", pa.list_(pa.struct([*store, *source]))),
            ("live", pa.list_(pa.struct([*live, ("pending", pending)]))),
            ("late", pa.bool_()),
            ("deadline_ms", pa.float64()),
            *((name, pa.int32()) for name in TIMES),
            ("replica", text),
        ]
    )
