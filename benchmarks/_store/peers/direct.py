"""One small RSGI handler over another store: what somebody writes who takes Redis, PostgreSQL, SQLite or RocksDB.

`BENCH_BACKEND` says which, `BENCH_BACKEND_AT` where it is. The answer's constant members are made once at the start.
Redis is asked without blocking the event loop, and under /blocking/ with a client that does, which costs less a call.
"""

import os
import sys
from typing import Any

import orjson
import served

sys.path.append(os.environ["BENCH_PEERS"])
BACKEND, AT = os.environ["BENCH_BACKEND"], os.environ["BENCH_BACKEND_AT"]
Values = list[bytes | None]


class Redis:
    def __init__(self) -> None:
        import redis
        import redis.asyncio
        from redis.utils import HIREDIS_AVAILABLE

        assert HIREDIS_AVAILABLE, "the peer has the faster parser"
        self._waiting = redis.asyncio.Redis(unix_socket_path=AT)
        self._blocking = redis.Redis(unix_socket_path=AT)

    async def one(self, key: str, *, blocking: bool) -> bytes | None:
        found: bytes | None = self._blocking.get(key) if blocking else await self._waiting.get(key)
        return found

    async def many(self, keys: list[str], *, blocking: bool) -> Values:
        found: Values = self._blocking.mget(keys) if blocking else await self._waiting.mget(keys)
        return found


class Postgres:
    """A pool of prepared statements on a primary key."""

    def __init__(self) -> None:
        self._pool: Any = None

    async def _ready(self) -> Any:
        if self._pool is None:
            import asyncpg

            self._pool = await asyncpg.create_pool(host=AT, user="bench", database="postgres", min_size=4, max_size=8)
        return self._pool

    async def one(self, key: str, *, blocking: bool) -> bytes | None:
        value = await (await self._ready()).fetchval("select value from predictions where key = $1", key)
        return None if value is None else value.encode()

    async def many(self, keys: list[str], *, blocking: bool) -> Values:
        query = "select key, value from predictions where key = any($1)"
        found = dict(await (await self._ready()).fetch(query, keys))
        return [found[key].encode() if key in found else None for key in keys]


class Sqlite:
    def __init__(self) -> None:
        import sqlite3

        self._connection = sqlite3.connect(f"file:{AT}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self._connection.execute("pragma mmap_size = 4000000000")

    async def one(self, key: str, *, blocking: bool) -> bytes | None:
        found = self._connection.execute("select value from predictions where key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    async def many(self, keys: list[str], *, blocking: bool) -> Values:
        marks = ",".join("?" * len(keys))
        found = dict(self._connection.execute(f"select key, value from predictions where key in ({marks})", keys))
        return [found.get(key) for key in keys]


class RocksDb:
    def __init__(self) -> None:
        from rocksdict import AccessType, Options, Rdict

        self._store = Rdict(AT, Options(raw_mode=True), access_type=AccessType.read_only())

    async def one(self, key: str, *, blocking: bool) -> bytes | None:
        found: bytes | None = self._store.get(key.encode())
        return found

    async def many(self, keys: list[str], *, blocking: bool) -> Values:
        found: Values = self._store.get([key.encode() for key in keys])
        return found


STORE: Any = {"redis": Redis, "postgres": Postgres, "sqlite": Sqlite, "rocksdb": RocksDb}[BACKEND]()


async def app(scope: Any, protocol: Any) -> None:
    blocking = scope.path.startswith("/blocking/")
    if scope.method == "GET":
        key = scope.path.rpartition("/")[2]
        value = await STORE.one(key, blocking=blocking)
        if value is None:
            protocol.response_bytes(404, served.HEADERS, b"{}")
            return
        body = b'{"key":"' + key.encode() + b'","value":' + value + served.TAIL
    else:
        keys = orjson.loads(await protocol())["keys"]
        body = served.join_many(keys, await STORE.many(keys, blocking=blocking))
    protocol.response_bytes(200, served.HEADERS, body)
