"""A BentoML service with features from Redis, as its documentation writes one: typed fields in, a dict out."""

import bentoml
import ranking


@bentoml.service(
    name="ranker",
    workers=1,
    traffic={"timeout": 30, "max_concurrency": 1000},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Ranker:
    def __init__(self) -> None:
        self.score = ranking.load_model()
        self.waiting, self.blocking = ranking.asyncio_redis(), ranking.blocking_redis()

    @bentoml.api
    async def rank(self, household_id: int, candidates: list[int]) -> dict:
        values = await self.waiting.mget(ranking.keys_of(household_id, candidates))
        return ranking.ranked(candidates, self.score(ranking.matrix_of(values)))

    @bentoml.api
    async def rank_blocking(self, household_id: int, candidates: list[int]) -> dict:
        values = self.blocking.mget(ranking.keys_of(household_id, candidates))
        return ranking.ranked(candidates, self.score(ranking.matrix_of(values)))
