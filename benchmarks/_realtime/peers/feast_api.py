"""FastAPI that asks Feast's SDK for the features, from Feast's online store on Redis."""

import os

import numpy as np
import orjson
import ranking
from fastapi import FastAPI, Request, Response
from feast import FeatureStore

app = FastAPI()
score = ranking.load_model()
store = FeatureStore(os.environ["BENCH_FEAST"])
MINE = [f"household:h{number}" for number in range(ranking.HOUSEHOLD_SIZE)]
THEIRS = [f"product:p{number:02}" for number in range(ranking.PRODUCT_SIZE)]


def columns(features, rows):
    """The features' values as float32 [n, d]; `to_dict` is what Feast gives, there is no matrix."""
    found = store.get_online_features(features, rows).to_dict()
    return np.array([found[name.partition(":")[2]] for name in features], np.float32).T


@app.post("/rank")
async def rank(request: Request) -> Response:
    body = orjson.loads(await request.body())
    candidates = body["candidates"]
    mine = columns(MINE, [{"household_id": body["household_id"]}])
    theirs = columns(THEIRS, [{"product_id": each} for each in candidates])
    matrix = np.hstack([np.repeat(mine, len(candidates), axis=0), theirs])
    answer = ranking.ranked(candidates, score(matrix))
    return Response(orjson.dumps(answer), media_type="application/json")


@app.get("/ready")
async def ready() -> dict:
    return {}
