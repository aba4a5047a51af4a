"""What the raw handlers and the FastAPI application share: the snapshot and the parts of an answer that are constant.

The constant members (model, as-of date, age and so on) are made once at the start, which flatters these peers: the
reader makes them again every second.
"""

import os
import time
from pathlib import Path

from forecache.reader.answers import Answers
from forecache.store import Store

SNAPSHOT = Store(Path(os.environ["BENCH_STORE"])).snapshot()
NAME = SNAPSHOT.manifest.pipeline
PREFIX = f"/v1/{NAME}/"
GET = SNAPSHOT.get
_ANSWERS = Answers(SNAPSHOT)
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
    parts = []
    encoded = [key.encode() for key in keys]
    for raw, value in zip(encoded, SNAPSHOT.get_many(encoded), strict=True):
        if value is None:
            parts.append(b'{"key":"' + raw + b'","found":false}')
        else:
            parts.append(b'{"key":"' + raw + b'","found":true,"value":' + value + b"}")
    return b'{"results":[' + b",".join(parts) + b"]" + TAIL
