"""FastAPI with features from Redis: the body through orjson, no pydantic model; Redis without and with blocking."""

import orjson
import ranking
from fastapi import FastAPI, Request, Response

app = FastAPI()
score = ranking.load_model()
waiting, blocking = ranking.asyncio_redis(), ranking.blocking_redis()


def answer(body, values):
    scores = score(ranking.matrix_of(values))
    return Response(orjson.dumps(ranking.ranked(body["candidates"], scores)), media_type="application/json")


@app.post("/rank")
async def rank(request: Request) -> Response:
    body = orjson.loads(await request.body())
    values = await waiting.mget(ranking.keys_of(body["household_id"], body["candidates"]))
    return answer(body, values)


@app.post("/blocking/rank")
async def rank_blocking(request: Request) -> Response:
    body = orjson.loads(await request.body())
    return answer(body, blocking.mget(ranking.keys_of(body["household_id"], body["candidates"])))


@app.get("/ready")
async def ready() -> dict:
    return {}
