"""A record of the request log: its columns in the lake, and its bytes in the spool.

The table `request_log_<name>` of the lake has a row for each logged answer, and is partitioned by day;
`forecache.declare.realtime.request_rows` decodes its columns.
"""

import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from forecache.base.table_names import REQUEST_LOG

if TYPE_CHECKING:
    import pyarrow as pa


VARIANTS = ("current", "canary", "control", "aa", "shadow", "loading")
"""Variants: the current release, a canary, the current release as second variant of an A/A test, a shadow that is never
sent, or the current release in place of a canary that was still loading."""
TIMES = ("wait_us", "parse_us", "lookup_us", "transform_us", "model_us", "fallbacks_us", "total_us")
"""Microseconds of the stages, and from the arrival of the request until its answer was written."""
DAY = "day"


def table_of(name: str) -> str:
    return REQUEST_LOG + name


@cache
def schema() -> "pa.Schema":
    """The columns of a request log.

    request_id: As the client sent it, else assigned by the reader and returned in the answer.
    arrived_at, day: When the request arrived, and the date of that in UTC.
    key: Values of `Log.by` as the store encodes keys.
    request: The request as the reader's own JSON; `forecache.realtime.log.answer_log` reads it.
    items: Number of candidates; 1 if the model ranks none.
    release, model_version, variant: The release, model and variant that answered.
    features: float32, little-endian, [items, num_features] as the model got them, C order; null if it was not called.
    scores, score_dtype: [items] in the order of the request, in this numpy dtype; null if there are none.
    answered_by: The last fallback that a candidate comes from; "model" if the model scored all.
    item_answered_by, ranking: Only if candidates come from several fallbacks: that of each, in the order of the
        request, and the indices of the candidates in the request, best first.
    fallback_reason: Reason why the model did not answer; "" if it did.
    warnings: Faults of the model's input.
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
            ("variant", text),
            ("features", pa.binary()),
            ("scores", pa.binary()),
            ("score_dtype", text),
            ("answered_by", text),
            ("item_answered_by", pa.list_(text)),
            ("ranking", pa.list_(pa.int32())),
            ("fallback_reason", text),
            ("warnings", pa.list_(text)),
            ("stores", pa.list_(pa.struct([*store, *source]))),
            ("live", pa.list_(pa.struct([*live, ("pending", pending)]))),
            ("late", pa.bool_()),
            ("deadline_ms", pa.float64()),
            *((name, pa.int32()) for name in TIMES),
            ("replica", text),
        ]
    )


_FIXED = struct.Struct("<qqqid7iBc13I")
_LATE, _HAS_FEATURES, _HAS_SCORES = 1, 2, 4
_DTYPES = {"e": "float16", "f": "float32", "d": "float64", "\0": ""}
_NUM_FIXED = 5 + len(TIMES) + 2


def pack_answer(
    *,
    arrived_us: int,
    release: int,
    model_version: int,
    items: int,
    deadline_ms: float,
    times_us: tuple[int, int, int, int, int, int, int],
    late: bool,
    request_id: bytes,
    key: bytes,
    request: bytes,
    features: "np.ndarray | bytes | None",
    scores: np.ndarray | None,
    answered_by: bytes,
    fallback_reason: bytes,
    variant: bytes,
    stores: bytes,
    warnings: bytes,
    item_answered_by: bytes,
    ranking: bytes,
    live: bytes,
) -> bytes:
    """Encode an answer; `forecache.realtime.log.record.schema` describes its parts.

    Args:
        times_us: In the order of `TIMES`.
        features: float32 [items, num_features], or its bytes.
        stores, warnings, item_answered_by, live: JSON lists; empty: none.
        ranking: int32, little-endian.
    """
    bits, code, matrix, row = int(late), b"\0", b"", b""
    if features is not None:
        bits |= _HAS_FEATURES
        matrix = features if isinstance(features, bytes) else features.tobytes()
    if scores is not None:
        bits |= _HAS_SCORES
        code, row = scores.dtype.char.encode(), scores.tobytes()
    return b"".join(
        (
            _FIXED.pack(
                arrived_us, release, model_version, items, deadline_ms, *times_us, bits, code,
                len(request_id), len(key), len(request), len(matrix), len(row), len(answered_by),
                len(fallback_reason), len(variant),
                len(stores), len(warnings), len(item_answered_by), len(ranking), len(live),
            ),
            request_id, key, request, matrix, row, answered_by, fallback_reason, variant, stores,
            warnings, item_answered_by, ranking, live,
        )
    )  # fmt: skip


def unpack_answer(content: memoryview) -> dict[str, Any]:
    """Decode the columns of an answer from `pack_answer`, without `day` and `replica`; `arrived_at` in microseconds.

    Raises:
        ValueError, struct.error: The bytes are not an encoded answer.
    """
    fixed = _FIXED.unpack_from(content)
    arrived, release, version, items, deadline = fixed[:5]
    bits, code = fixed[_NUM_FIXED - 2 : _NUM_FIXED]
    parts, at = [], _FIXED.size
    for size in fixed[_NUM_FIXED:]:
        parts.append(content[at : at + size])
        at += size
    if at != len(content):
        raise ValueError(f"A logged answer has {len(content)} bytes, and its parts {at}.")
    (
        request_id,
        key,
        request,
        matrix,
        row,
        answered_by,
        fallback_reason,
        variant,
        stores,
        warnings,
        item_answered_by,
        ranking,
        live,
    ) = parts
    return {
        "request_id": str(request_id, "utf-8", "replace"),
        "arrived_at": arrived,
        "key": str(key, "utf-8", "replace"),
        "request": request,
        "items": items,
        "release": release,
        "model_version": version,
        "variant": str(variant, "utf-8"),
        "features": matrix if bits & _HAS_FEATURES else None,
        "scores": row if bits & _HAS_SCORES else None,
        "score_dtype": _DTYPES[code.decode()],
        "answered_by": str(answered_by, "utf-8"),
        "item_answered_by": orjson.loads(item_answered_by) if item_answered_by else None,
        "ranking": np.frombuffer(ranking, "<i4").tolist() if ranking else None,
        "fallback_reason": str(fallback_reason, "utf-8"),
        "warnings": orjson.loads(warnings) if warnings else [],
        "stores": orjson.loads(stores) if stores else [],
        "live": orjson.loads(live) if live else [],
        "late": bool(bits & _LATE),
        "deadline_ms": deadline,
        **dict(zip(TIMES, fixed[5 : 5 + len(TIMES)], strict=True)),
    }
