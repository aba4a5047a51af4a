"""A recommender from landing files to the reader's answer, by the commands that people give."""

import json
from pathlib import Path

import httpx
import pytest
import shelf_project
from reader_support import running_reader
from shelf_lake import landing_of, lists_by_hand, similar_by_hand

from forecache.base.settings import load_settings
from forecache.cli.main import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_recommender_is_run_published_read_and_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    settings = load_settings()
    shelf_project.land(landing_of(settings))
    expected = lists_by_hand(settings, shelf_project.LAST)

    assert main(["run", "offers", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in stages] == ["ingest", "ingest", "recommend", "publish", "publish"]
    similar = similar_by_hand(settings, shelf_project.LAST)
    published = {stage["subject"]: stage["rows"] for stage in stages[3:]}
    assert published == {"offers": len(expected), "offers_items": len(similar)}
    assert stages[2]["rows"] == len(expected)
    assert main(["run", "--json"]) == 0
    assert all(stage["skipped"] for stage in json.loads(capsys.readouterr().out))

    with running_reader(settings) as reader:
        for customer in list(expected)[::10]:
            answer = httpx.get(f"{reader.url}/v1/offers/{customer}?limit=3").json()
            assert [item["item"] for item in answer["value"]["items"]] == expected[customer][:3]
            assert (answer["as_of"], answer["model"]["name"]) == (shelf_project.LAST.isoformat(), "offers")
        for article, found in list(similar.items())[::10]:
            answer = httpx.get(f"{reader.url}/v1/offers_items/{article}?limit=3").json()
            places = answer["value"]["items"]
            assert [place["item"] for place in places] == list(found)[:3]
            reasons = [f"{number} took both" if number else None for number in found.values()]
            assert [place["reason"] for place in places] == reasons[:3]
        keys = list(expected)
        many = httpx.post(f"{reader.url}/v1/offers", json={"keys": keys}).json()["results"]
        assert {row["key"]: [item["item"] for item in row["value"]["items"]] for row in many} == expected

    assert main(["run", "offers_items"]) == 4
    assert "'offers_items' is made by 'offers'. `forecache run offers` makes" in capsys.readouterr().err
    assert main(["publish", "offers_items", "--full"]) == 0
    capsys.readouterr()
    assert main(["train", "offers"]) == 4
    assert "'offers' is a recommender: each nightly run fits it anew" in capsys.readouterr().err
    assert main(["train"]) == 3
    assert "shelf_project has no pipeline that trains a model" in capsys.readouterr().err
    assert main(["publish", "offers", "--full", "--json"]) == 0
    assert main(["rollback", "offers"]) == 0
    assert "version 1 of offers" in capsys.readouterr().out
    assert main(["store", "versions", "offers", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["doctor"]) in (0, 1)
    assert "offers, offers_items in shelf_project" in capsys.readouterr().out
