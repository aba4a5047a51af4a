"""A reader without a store of its own: pipelines that are declared to be in Redis are served from a real one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from reader_support import RunningReader, churn_rows, running_reader, start_reader, write_version
from store_services import redis_server
from store_tables import OPEN_RULES, churn, predictions, scores, upsert, write_night
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.plugins.redis.client import connect
from forecache.plugins.redis.versions import open_redis_store
from forecache.serve.store import open_store, publish

IN_REDIS = churn(rules=replace(OPEN_RULES, backend="redis"))


def served(reader: RunningReader) -> int:
    return int(httpx.get(f"{reader.url}/v1/churn").json()["store_version"])


@pytest.fixture
def publisher(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The settings of the machine that publishes; its Redis is empty."""
    with redis_server(tmp_path / "redis") as port:
        yield settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})


def elsewhere(publisher: Settings, tmp_path: Path) -> Settings:
    """The settings of a reader on another machine: the same Redis, another home."""
    return load_settings(home=tmp_path / "reader", redis_url=publisher.redis_url)


def test_answers_from_redis_are_those_of_a_local_store_and_follow_publishes(
    publisher: Settings, tmp_path: Path
) -> None:
    write_night(publisher, predictions(scores(300)))
    publish(publisher, IN_REDIS)
    keys = {"keys": ["00007", "nobody", "00001"]}
    with (
        running_reader(elsewhere(publisher, tmp_path), redis_url=publisher.redis_url) as far,
        running_reader(publisher) as near,
    ):

        def same(path: str) -> bool:
            answers = [httpx.get(f"{reader.url}{path}") for reader in (far, near)]
            bodies = [answer.json() for answer in answers]
            for body in bodies:
                body.pop("age_s", None)
            return answers[0].status_code == answers[1].status_code and bodies[0] == bodies[1]

        assert same("/v1/churn/00007")
        assert same("/v1/churn/nobody")
        assert same("/v1/churn")
        upsert(publisher, predictions({"00007": 0.125, "00009": 0.5}, run_id="run-2"))
        publish(publisher, IN_REDIS)
        assert eventually(lambda: served(far) == served(near) == 2)
        assert same("/v1/churn/00007")
        found = [httpx.post(f"{reader.url}/v1/churn", json=keys).json()["results"] for reader in (far, near)]
        assert found[0] == found[1]
        assert [row["found"] for row in found[0]] == [True, False, True]
        assert httpx.get(f"{far.url}/versions/churn").json()["versions"][0]["state"] == ["serving", "current"]


def test_a_local_store_goes_before_redis(publisher: Settings, tmp_path: Path) -> None:
    write_night(publisher, predictions(scores(20)))
    publish(publisher, IN_REDIS)
    settings = elsewhere(publisher, tmp_path)
    write_version(settings.store_path, "churn", churn_rows(50, shift=9.0))
    with running_reader(settings, redis_url=publisher.redis_url) as reader:
        assert httpx.get(f"{reader.url}/v1/churn/00042").json()["value"]["churn_probability"] > 9.0


def test_what_redis_lost_is_unavailable_and_never_a_missing_key(publisher: Settings, tmp_path: Path) -> None:
    write_night(publisher, predictions(scores(20)))
    publish(publisher, IN_REDIS)
    with running_reader(elsewhere(publisher, tmp_path), redis_url=publisher.redis_url) as reader:
        url = f"{reader.url}/v1/churn/00001"
        assert httpx.get(url).status_code == 200
        client = connect(publisher.redis_url)
        client.flushall()
        assert httpx.get(url).status_code == 503
        assert httpx.post(f"{reader.url}/v1/churn", json={"keys": ["00001"]}).status_code == 503
        open_redis_store(publisher, "churn").load(open_store(publisher, "churn"))
        assert eventually(lambda: httpx.get(url).status_code == 200)
        client.close()


def test_a_redis_that_stops_leaves_other_pipelines_served(settings: Settings, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as port:
        publisher = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        write_night(publisher, predictions(scores(20)))
        publish(publisher, IN_REDIS)
        reading = elsewhere(publisher, tmp_path)
        write_version(reading.store_path, "spend", churn_rows(50))
        reader = start_reader(reading, redis_url=publisher.redis_url)
        assert httpx.get(f"{reader.url}/v1/churn/00001").status_code == 200
    try:
        assert httpx.get(f"{reader.url}/v1/churn/00001").status_code == 503
        assert httpx.get(f"{reader.url}/v1/spend/00042").status_code == 200
    finally:
        reader.stop()
