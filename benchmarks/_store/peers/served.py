"""What the raw handlers and the FastAPI application share: the snapshot and the parts of an answer that are constant.

The constant members (model, as-of date, age and so on) are made once at the start, which flatters these peers: the
reader makes them again every second.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Store

SNAPSHOT = Store(Path(os.environ["BENCH_STORE"])).snapshot()
NAME = SNAPSHOT.manifest.pipeline
PREFIX = f"/v1/{NAME}/"
GET = SNAPSHOT.get
_ANSWERS = VersionAnswers(SNAPSHOT)
_ANSWERS.refresh(time.time())
TAIL = _ANSWERS.tail
HEADERS = _ANSWERS.headers
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS]
SNAPSHOT.warm()


def one(key: bytes) -> bytes | None:
    """The answer for one key, None where the store does not have it."""
    value = GET(key)
    return None if value is None else b'{"key":"' + key + b'","value":' + value + TAIL


def many(keys: list[str]) -> bytes:
    """The answer for several keys."""
    return join_many(keys, SNAPSHOT.get_many([key.encode() for key in keys]))


def join_many(keys: list[str], values: Sequence[bytes | None]) -> bytes:
    """The answer for several keys whose values have been looked up."""
    parts = []
    for key, value in zip(keys, values, strict=True):
        if value is None:
            parts.append(b'{"key":"' + key.encode() + b'","found":false}')
        else:
            parts.append(b'{"key":"' + key.encode() + b'","found":true,"value":' + value + b"}")
    return b'{"results":[' + b",".join(parts) + b"]" + TAIL
