"""A raw ASGI handler over the same snapshot: what uvicorn can do when nothing else is done."""

from typing import Any

import orjson
import served

PREFIX_LENGTH = len(served.PREFIX)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    status = 200
    if scope["method"] == "GET":
        body = served.one(scope["path"][PREFIX_LENGTH:].encode())
        if body is None:
            status, body = 404, b"{}"
    else:
        received = b""
        while True:
            message = await receive()
            received += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = served.many(orjson.loads(received)["keys"])
    headers = [*served.RAW_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
