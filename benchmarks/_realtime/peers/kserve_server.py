"""KServe's Python server with features from Redis, its V1 protocol: instances in, predictions out."""

import sys

import ranking
from kserve import Model, ModelServer


class Ranker(Model):
    def __init__(self, name: str, blocking: bool) -> None:
        super().__init__(name)
        self._score = ranking.load_model()
        self._redis = ranking.blocking_redis() if blocking else ranking.asyncio_redis()
        self._blocking = blocking
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        found = []
        for each in payload["instances"]:
            keys = ranking.keys_of(each["household_id"], each["candidates"])
            values = self._redis.mget(keys) if self._blocking else await self._redis.mget(keys)
            found.append(ranking.ranked(each["candidates"], self._score(ranking.matrix_of(values))))
        return {"predictions": found}


if __name__ == "__main__":
    server = ModelServer(
        http_port=int(sys.argv[1]), workers=1, enable_grpc=False, enable_latency_logging=False, event_loop="uvloop"
    )  # fmt: skip
    server.start([Ranker("ranker", False), Ranker("ranker-blocking", True)])
