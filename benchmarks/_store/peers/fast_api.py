"""FastAPI over the same snapshot, twice: with ready bytes (its faster way), and as its tutorial writes it.

The tutorial's way decodes the value and returns a dict for FastAPI to encode.
"""

from typing import Any

import orjson
import served
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

app = FastAPI(openapi_url=None)
HEADERS = {name: value for name, value in served.HEADERS if name != "content-type"}
_TAIL = orjson.loads(b"{" + served.TAIL[1:])


class Keys(BaseModel):
    keys: list[str]


@app.get("/v1/churn/{key}")
async def get_one(key: str) -> Response:
    body = served.one(key.encode())
    if body is None:
        raise HTTPException(404)
    return Response(body, media_type="application/json", headers=HEADERS)


@app.post("/v1/churn")
async def post_many(request: Keys) -> Response:
    return Response(served.many(request.keys), media_type="application/json", headers=HEADERS)


@app.get("/tutorial/churn/{key}")
async def get_one_as_dict(key: str) -> dict[str, Any]:
    value = served.GET(key.encode())
    if value is None:
        raise HTTPException(404)
    return {"key": key, "value": orjson.loads(value), **_TAIL}


@app.post("/tutorial/churn")
async def post_many_as_dicts(request: Keys) -> dict[str, Any]:
    results = []
    for key in request.keys:
        value = served.GET(key.encode())
        if value is None:
            results.append({"key": key, "found": False})
        else:
            results.append({"key": key, "found": True, "value": orjson.loads(value)})
    return {"results": results, **_TAIL}
