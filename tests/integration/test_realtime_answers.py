"""Real-time models over HTTP, in a reader started as users start it."""

from collections.abc import Iterator

import httpx
import pytest
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import a_request, make_release

from forecache.settings import Settings, load_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")))
    write_views(settings)
    make_release(settings)
    return settings


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[RunningReader]:
    with running_reader(settings) as running:
        yield running


def ask(reader: RunningReader, body: bytes | str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{reader.url}/v1/ranking", content=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_a_ranking_says_for_each_candidate_its_score_and_rung_and_where_they_come_from(reader: RunningReader) -> None:
    answer = ask(reader, a_request()).json()
    assert [item["product_id"] for item in answer["items"]] == ["b", "c", "a"]
    assert {item["rung"] for item in answer["items"]} == {"model"}
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["rung"] == "model"
    assert answer["rungs"] == {"model": 3}
    assert answer["model"] == {"name": "ranking", "version": 1}
    assert answer["release"] == 1
    assert {name: (each["version"], each["stale"]) for name, each in answer["stores"].items()} == {
        "household": (1, False), "product": (1, False),
    }  # fmt: skip
    assert answer["timings_ms"]["total"] > 0
    assert answer["deadline_ms"] == 50
