"""`forecache publish`, `versions`, `get`, `explain`, `diff` and `rollback` of a published view."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from joined_sample import START
from view_tables import write_features

from forecache.base.settings import load_settings
from forecache.cli.main import main

NIGHTS = (START + timedelta(days=1), START + timedelta(days=2))


def write(night: date, people: dict[str, float]) -> None:
    table = pa.table(
        {
            "region": list(people),
            "people_2d": pa.array(list(people.values()), pa.float32()),
            "as_of": pa.array([night] * len(people), pa.date32()),
        }
    )
    write_features(load_settings(), table, night=night, view="visitors")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Two published nights; runs a command and returns what it prints."""
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "published_project")

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    for night, people in zip(NIGHTS, ({"north": 5.0, "south": 0.1}, {"north": 7.5, "south": 0.1}), strict=True):
        write(night, people)
        assert json.loads(run("publish", "visitors", "--json"))["details"]["version"] == 1 + (night == NIGHTS[1])
    return run


def test_a_views_rows_are_read_and_explained_without_a_model(said: Any) -> None:
    shown = said("get", "visitors", "north", "nobody")
    assert "7.5" in shown
    assert "no such key" in shown
    assert "precomputed: store version 2, as of 2026-01-03, age" in " ".join(shown.split())
    found = json.loads(said("get", "visitors", "south", "--json"))
    assert (found["value"], "model" in found) == ({"people_2d": 0.1}, False)
    explained = said("explain", "visitors", "north")
    assert "feature row in features_visitors at Delta version 1" in explained
    assert "people_2d=7.5" in explained
    chain = json.loads(said("explain", "visitors", "north", "--version", "1", "--json"))
    assert (chain["features"]["row"]["people_2d"], [raw["table"] for raw in chain["raw"]]) == (5.0, ["raw_flows"])


def test_a_views_versions_are_listed_compared_and_gone_back_to(said: Any) -> None:
    assert "visitors" not in said("store", "versions", "visitors").splitlines()[0]
    assert [version["model"] for version in json.loads(said("store", "versions", "visitors", "--json"))] == [None, None]
    differ = json.loads(said("store", "diff", "visitors", "1", "2", "--json"))
    assert (differ["changed"], differ["unchanged"], differ["top_movers"][0]["change"]) == (1, 1, 2.5)
    assert "version 1 (as of 2026-01-02, 2 keys)" in said("store", "diff", "visitors", "1", "2")
    said("rollback", "visitors")
    assert json.loads(said("get", "visitors", "north", "--json"))["value"] == {"people_2d": 5.0}
