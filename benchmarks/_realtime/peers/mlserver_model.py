"""An MLServer runtime with features from Redis. Its handlers take the same JSON as the others (`custom_handler`)."""

import orjson
import ranking
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.handlers import custom_handler


class Ranker(MLModel):
    async def load(self) -> bool:
        self._score = ranking.load_model()
        self._waiting, self._blocking = ranking.asyncio_redis(), ranking.blocking_redis()
        return True

    def _answer(self, body: dict, values: list) -> Response:
        scores = self._score(ranking.matrix_of(values))
        return Response(orjson.dumps(ranking.ranked(body["candidates"], scores)), media_type="application/json")

    @custom_handler(rest_path="/rank")
    async def rank(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        values = await self._waiting.mget(ranking.keys_of(body["household_id"], body["candidates"]))
        return self._answer(body, values)

    @custom_handler(rest_path="/blocking/rank")
    async def rank_blocking(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        values = self._blocking.mget(ranking.keys_of(body["household_id"], body["candidates"]))
        return self._answer(body, values)
