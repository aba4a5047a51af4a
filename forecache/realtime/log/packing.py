"""Encode one logged answer as bytes for the spool, and decode it."""

import struct
from typing import Any

import numpy as np
import orjson

from forecache.realtime.log.record import TIMES

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
    rung: bytes,
    why: bytes,
    arm: bytes,
    stores: bytes,
    flags: bytes,
    rungs: bytes,
    ranking: bytes,
    live: bytes,
) -> bytes:
    """Encode an answer; `forecache.realtime.log.record.schema` describes its parts.

    Args:
        times_us: In the order of `TIMES`.
        features: float32 [items, num_features], or its bytes.
        stores, flags, rungs, live: JSON lists; empty: none.
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
                len(request_id), len(key), len(request), len(matrix), len(row), len(rung), len(why), len(arm),
                len(stores), len(flags), len(rungs), len(ranking), len(live),
            ),
            request_id, key, request, matrix, row, rung, why, arm, stores, flags, rungs, ranking, live,
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
    request_id, key, request, matrix, row, rung, why, arm, stores, flags, rungs, ranking, live = parts
    return {
        "request_id": str(request_id, "utf-8", "replace"),
        "arrived_at": arrived,
        "key": str(key, "utf-8", "replace"),
        "request": request,
        "items": items,
        "release": release,
        "model_version": version,
        "arm": str(arm, "utf-8"),
        "features": matrix if bits & _HAS_FEATURES else None,
        "scores": row if bits & _HAS_SCORES else None,
        "score_dtype": _DTYPES[code.decode()],
        "rung": str(rung, "utf-8"),
        "rungs": orjson.loads(rungs) if rungs else None,
        "ranking": np.frombuffer(ranking, "<i4").tolist() if ranking else None,
        "why": str(why, "utf-8"),
        "flags": orjson.loads(flags) if flags else [],
        "stores": orjson.loads(stores) if stores else [],
        "live": orjson.loads(live) if live else [],
        "late": bool(bits & _LATE),
        "deadline_ms": deadline,
        **dict(zip(TIMES, fixed[5 : 5 + len(TIMES)], strict=True)),
    }
