"""A raw RSGI handler over the same snapshot: what Granian can do when nothing else is done."""

from typing import Any

import orjson
import served

PREFIX_LENGTH = len(served.PREFIX)


async def app(scope: Any, protocol: Any) -> None:
    if scope.method == "GET":
        body = served.one(scope.path[PREFIX_LENGTH:].encode())
        if body is None:
            protocol.response_bytes(404, served.HEADERS, b"{}")
            return
    else:
        body = served.many(orjson.loads(await protocol())["keys"])
    protocol.response_bytes(200, served.HEADERS, body)
