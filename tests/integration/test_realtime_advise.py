"""`forecache advise`: a cache where requests repeat, the loop for fast native models, each with its figures."""

import json
import shutil
from pathlib import Path

import pytest
from realtime_support import write_views
from release_support import a_request, make_release

from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.plugins.cost.measured_advice import SCORE_BYTES, CacheSimulation
from forecache.plugins.score_cache.cached_path import ENTRY_BYTES
from forecache.serve.store import push
from forecache.serve.store.remote_store import list_local_stores


def asked(settings: Settings, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["advise", "ranking", *arguments, "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)
    return found


def log_of(folder: Path, households: list[int]) -> Path:
    """A file of requests, one for each household."""
    file = folder / "requests.jsonl"
    request = json.loads(a_request())
    file.write_text("".join(json.dumps({**request, "household_id": each}) + "\n" for each in households))
    return file


@pytest.fixture
def home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    write_views(settings)
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    return settings


def test_requests_that_repeat_are_worth_a_cache_and_others_are_not(
    home: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(home, runtime="lightgbm")
    repeated = asked(home, capsys, "--requests", str(log_of(tmp_path, [1, 2] * 200)))
    assert repeated["hit_share"] == 398 / 400
    assert repeated["distinct"] == 2
    place, cache = repeated["advice"]
    assert (place["field"], place["value"]) == ("runs", "loop")
    assert (cache["field"], cache["value"], cache["now"]) == ("cache_bytes", 64 * 2**20, 0)
    assert "99.5% of 400 requests repeat an earlier one within 64 MiB" in cache["why"]
    assert "give 1,000 or more" in cache["why"]
    never = asked(home, capsys, "--requests", str(log_of(tmp_path, list(range(400)))))
    assert never["hit_share"] == 0
    assert never["advice"][1]["value"] == 0
    assert set(never["stages_ms"]) == {"parse", "lookup", "transform", "model"}
    assert all(0 < each["p50"] <= each["p99"] for each in never["stages_ms"].values())


def test_a_model_that_is_a_function_belongs_in_a_process(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    make_release(home, runtime="function")
    place = asked(home, capsys)["advice"][0]
    assert (place["value"], place["now"]) == ("process", "auto")
    assert "it belongs where it can be ended" in place["why"]


def test_the_advice_is_shown_with_the_stages(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    make_release(home)
    assert main(["advise", "ranking"]) == 0
    text = capsys.readouterr().out
    assert "1 recorded requests" in text
    assert "runs='loop': Transform and model take" in text
    assert "cache_bytes=0: 0.0% of 1 request repeat" in text


def test_a_machine_without_the_views_on_its_disk_fetches_them(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(home)
    asked_here = asked(home, capsys)
    for store in list_local_stores(home):
        push(store, LocalFolder(tmp_path / "remote"))
    empty = tmp_path / "empty"
    shutil.copytree(home.store_path / ".realtime", empty / "store" / ".realtime")
    for name, value in {"HOME": empty, "LAKE": home.lake_uri, "STORE_REMOTE": tmp_path / "remote"}.items():
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    found = asked(load_settings(), capsys)
    assert [each["field"] for each in found["advice"]] == [each["field"] for each in asked_here["advice"]]
    assert found["distinct"] == asked_here["distinct"] == 1


def test_a_file_without_a_request_that_can_be_answered_is_refused(
    home: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(home)
    file = tmp_path / "wrong.jsonl"
    file.write_text('{"household": 1}\n')
    assert main(["advise", "ranking", "--requests", str(file)]) != 0
    assert "No request of 1 can be answered by the model of ranking" in capsys.readouterr().err


def test_what_was_asked_longest_ago_leaves_a_full_cache_first() -> None:
    cache = CacheSimulation(most_bytes=2 * (ENTRY_BYTES + SCORE_BYTES))
    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        cache.add_request(key, 1)
    assert cache.hits == 2
    assert cache.distinct == 3
    assert cache.most_bytes == 2 * (ENTRY_BYTES + SCORE_BYTES)
