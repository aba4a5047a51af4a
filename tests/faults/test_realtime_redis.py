"""Features in Redis on the way to a model: the same scores as from a local store; a Redis that is frozen, or gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pool_support import HeldUp, slowness
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import a_request, make_release
from store_services import redis_cluster, redis_server
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.plugins.redis.client import connect
from forecache.plugins.redis.versions import RedisStore
from forecache.serve.store import open_store

pytestmark = pytest.mark.faults
DEADLINE_MS = 60


@contextmanager
def far_and_near(settings: Settings, tmp_path: Path, url: str) -> Iterator[tuple[RunningReader, RunningReader, Any]]:
    """A reader whose views are in Redis, one that has them here, and a client of that Redis."""
    client = connect(url)
    write_views(settings)
    for name in ("household", "product"):
        RedisStore(client, name).load(open_store(settings, name))
    there = load_settings(home=str(tmp_path / "far"), redis_url=url)
    for each in (settings, there):
        make_release(each, deadline_ms=DEADLINE_MS)
    with running_reader(there, redis_url=url) as far, running_reader(settings) as near:
        yield far, near, client


def ask(
    reader: RunningReader, household: int = 1, products: tuple[str, ...] = ("a", "b", "c", "new")
) -> dict[str, Any]:
    response = httpx.post(f"{reader.url}/v1/ranking", content=a_request(household, products))
    assert response.status_code == 200, response.text
    return response.json()


def items_by_model(reader: RunningReader, household: int = 1) -> Any:
    """The items of an answer by the model, which a busy machine may give at the second try."""
    answers: list[dict[str, Any]] = []

    def is_by_the_model() -> bool:
        answers.append(ask(reader, household))
        return bool(answers[-1]["answered_by"] == "model")

    assert eventually(is_by_the_model)
    return answers[-1]["items"]


def test_scores_of_features_in_redis_are_those_of_a_local_store_and_a_frozen_redis_makes_no_answer_late(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        redis_server(tmp_path / "redis") as port,
        far_and_near(settings, tmp_path, f"redis://127.0.0.1:{port}") as (far, near, client),
    ):
        for household in (1, 2, 99):
            assert items_by_model(far, household) == items_by_model(near, household)
        pid = client.info("server")["process_id"]
        [worker] = far.workers()
        os.kill(pid, signal.SIGSTOP)
        try:
            with HeldUp(worker) as held_up:
                for _ in range(20):
                    before = held_up.seconds
                    answer = ask(far)
                    assert answer["answered_by"] == "order_given"
                    held_up_ms = 1000 * (held_up.seconds - before)
                    assert answer["timings_ms"]["total"] <= DEADLINE_MS + 5 * slowness() + held_up_ms
        finally:
            os.kill(pid, signal.SIGCONT)
        assert eventually(lambda: ask(far)["answered_by"] == "model")
        assert "forecache_realtime_late_reads_total" in httpx.get(f"{far.url}/metrics").text
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: ask(far).get("fallback_reason") == "lookup")
        assert ask(far)["answered_by"] == "order_given"


def test_a_version_that_redis_has_lost_is_not_taken_for_unknown_keys(settings: Settings, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path / "redis") as port,
        far_and_near(settings, tmp_path, f"redis://127.0.0.1:{port}") as (far, _, client),
    ):
        assert eventually(lambda: ask(far)["answered_by"] == "model")
        client.flushall()
        assert eventually(lambda: ask(far).get("fallback_reason") == "lookup")


def test_features_in_a_cluster_give_the_same_scores(settings: Settings, tmp_path: Path) -> None:
    with (
        redis_cluster(tmp_path / "cluster") as port,
        far_and_near(settings, tmp_path, f"redis://127.0.0.1:{port}") as (far, near, _),
    ):
        assert items_by_model(far) == items_by_model(near)
