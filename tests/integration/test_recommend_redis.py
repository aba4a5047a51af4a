"""A recommender whose lists are in Redis: a reader without a store of its own answers as a near one does."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from reader_support import running_reader
from shelf_lake import LAST, ingested, lists_by_hand, similar_by_hand
from shelf_project.pipelines.shelf import offers
from store_services import redis_server

from forecache.base.settings import load_settings
from forecache.declare import Publish
from forecache.operations.publish_night import publish_night
from forecache.plugins.recommend.stage import recommend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_lists_are_served_from_redis(spark: "SparkSession", tmp_path: Path) -> None:
    in_redis = replace(offers, publish=Publish(backend="redis"))
    [similar] = in_redis.second_tables
    with redis_server(tmp_path / "redis") as port:
        url = f"redis://127.0.0.1:{port}"
        home = ingested(spark, tmp_path / "home").model_copy(update={"redis_url": url})
        recommend(home, in_redis, [LAST])
        for served in (in_redis, similar):
            publish_night(home, served, unchecked=True)
        far = load_settings(home=tmp_path / "reader", redis_url=url)
        users, items = lists_by_hand(home, LAST), similar_by_hand(home, LAST)
        with running_reader(far, redis_url=url) as reader:
            keys = list(users)
            many = httpx.post(f"{reader.url}/v1/offers", json={"keys": keys}).json()["results"]
            assert {row["key"]: [place["item"] for place in row["value"]["items"]] for row in many} == users
            one = httpx.get(f"{reader.url}/v1/offers/{keys[3]}?limit=2").json()
            assert [place["item"] for place in one["value"]["items"]] == users[keys[3]][:2]
            article = list(items)[5]
            one = httpx.get(f"{reader.url}/v1/offers_items/{article}").json()
            assert [place["item"] for place in one["value"]["items"]] == list(items[article])
            assert httpx.get(f"{reader.url}/v1/offers/nobody").status_code == 404
