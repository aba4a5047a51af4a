"""`forecache explain NAME REQUEST_ID`: real answers of real releases, from their log."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged_answers import ARRIVED, DAY, LOOKUPS, Answering, publish_views, release, requests, write_log
from ranking_code import faults, transforms
from rich.console import Console

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.cli import output
from forecache.cli.main import main
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import features_of, order_of, scores_of
from forecache.plugins.explain import command as explained_answer
from forecache.plugins.explain.explain import explain_answer
from forecache.realtime.release.folder import open_releases


@pytest.fixture
def rows(settings: Settings) -> list[dict[str, Any]]:
    """Answers in the log; r00003 has a household that no view knows."""
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    bodies = requests(20)
    unknown = json.loads(bodies[3]) | {"household_id": 41}
    bodies[3] = json.dumps(unknown).encode()
    found = [answering.answer(body, at=ARRIVED + timedelta(seconds=each)) for each, body in enumerate(bodies)]
    answering.close()
    write_log(settings, found)
    return found


def shortest(number: Any) -> float:
    """A number of numpy with as many digits as its type has, as answers have it."""
    return float(str(number))


def of(rows: list[dict[str, Any]], request_id: str) -> dict[str, Any]:
    return next(row for row in rows if row["request_id"] == request_id)


def test_an_answer_is_shown_as_it_was_logged(settings: Settings, rows: list[dict[str, Any]]) -> None:
    found, row = explain_answer(settings, "ranking", "r00005"), of(rows, "r00005")
    request, scores, order = json.loads(row["request"]), scores_of(row), order_of(row)
    features = features_of(row)
    assert scores is not None
    assert features is not None
    items = [each["product_id"] for each in request["candidates"]]
    assert [each["item"] for each in found["candidates"]] == [items[place] for place in order]
    assert [each["score"] for each in found["candidates"]] == [shortest(scores[place]) for place in order]
    assert found["arrived_at"] == "2026-03-02T09:00:05Z"
    assert {name: found[name] for name in ("release", "variant", "answered_by", "fallback_reason")} == {
        "release": 1, "variant": "current", "answered_by": "model", "fallback_reason": ""
    }  # fmt: skip
    assert {(each["name"], each["version"], each["as_of"]) for each in found["stores"]} == {
        ("household", 1, "2026-03-01"), ("product", 1, "2026-03-01")
    }  # fmt: skip
    best = found["explained"]
    assert best["item"] == items[order[0]]
    values = {each["name"]: each["value"] for each in best["features"]}
    wanted = dict(zip(("spend", "popularity", "log_price", "known"), features[order[0]], strict=True))
    assert values == {name: None if np.isnan(value) else shortest(value) for name, value in wanted.items()}


def test_the_page_of_a_model_explains_a_request(settings: Settings, rows: list[dict[str, Any]]) -> None:
    found = explain_answer(settings, "ranking", "r00005")
    title, parts = explained_answer.explained_parts(settings, "ranking", "r00005")
    assert title.startswith(f"ranking, request r00005: {found['explained']['item']} at position 1 of ")
    lines = {part: "\n".join(lines) for part, lines in parts}
    assert f"by release {of(rows, 'r00005')['release']}, " in lines["at its time"]
    assert "score " in lines["today"]
    features = lines[f"features of {found['explained']['item']}"]
    assert all(f"{each['name']} = " in features for each in found["explained"]["features"])


def test_contributions_sum_to_the_logged_score(settings: Settings, rows: list[dict[str, Any]]) -> None:
    for request_id in ("r00003", "r00005"):  # of the first a feature is unknown
        found = explain_answer(settings, "ranking", request_id)["explained"]
        about = found["contributions"]
        assert about["sum"] == pytest.approx(found["score"], rel=1e-4, abs=1e-6)
        assert about["base"] + sum(each["contribution"] for each in found["features"]) == pytest.approx(about["sum"])
        assert "all sets of features" in about["method"]
        assert "64 rows of this and 19 other logged requests of 2026-03-02 to release 1" in about["background"]
        assert any(each["contribution"] for each in found["features"])
    spend = [each for each in explain_answer(settings, "ranking", "r00003")["explained"]["features"]
             if each["name"] == "spend"]  # fmt: skip
    assert spend[0]["value"] is None


def test_another_candidate_can_be_picked(settings: Settings, rows: list[dict[str, Any]]) -> None:
    last = explain_answer(settings, "ranking", "r00002")["candidates"][-1]
    found = explain_answer(settings, "ranking", "r00002", item=last["item"], day=DAY)["explained"]
    assert (found["item"], found["score"]) == (last["item"], last["score"])
    with pytest.raises(InputError, match="has no candidate 'p99999'. It has p"):
        explain_answer(settings, "ranking", "r00002", item="p99999")


def test_nothing_has_changed_while_release_and_stores_are_the_same(
    settings: Settings, rows: list[dict[str, Any]]
) -> None:
    found = explain_answer(settings, "ranking", "r00005")
    assert found["today"]["score"] == found["explained"]["score"]
    assert found["today"]["answered_by"] == "model"
    assert (found["model_version"], found["model_runtime"]) == (1, "onnx")
    assert (found["today"]["model_version"], found["today"]["model_runtime"]) == (1, "onnx")
    assert not any(each["changed"] for each in found["explained"]["features"])
    assert all(each["position"] == each["position_today"] for each in found["candidates"])


def test_what_changed_since_is_told_by_feature(settings: Settings, rows: list[dict[str, Any]]) -> None:
    publish_views(settings, night=date(2026, 3, 2), shift=10.0)
    found = explain_answer(settings, "ranking", "r00005")
    changed = {each["name"]: each["change"] for each in found["explained"]["features"] if each["changed"]}
    known = [each["name"] for each in found["explained"]["features"] if each["value"] is not None]
    assert set(changed) == {"spend", "popularity"} & set(known)
    assert all(change == pytest.approx(10.0, rel=1e-5) for change in changed.values())
    assert {each["version"] for each in found["today"]["stores"]} == {2}
    answering = Answering(settings)
    now = answering.answer(of(rows, "r00005")["request"])
    answering.close()
    scores = scores_of(now)
    assert scores is not None
    assert found["today"]["score"] == shortest(scores[found["explained"]["place"]])
    in_order = [each["item"] for each in sorted(found["candidates"], key=lambda each: each["position_today"])]
    items = [each["product_id"] for each in found["request"]["candidates"]]
    assert in_order == [items[place] for place in order_of(now)]


def test_lightgbm_explains_itself_exactly(settings: Settings) -> None:
    publish_views(settings)
    release(settings, runtime="lightgbm")
    answering = Answering(settings)
    write_log(settings, [answering.answer(body) for body in requests(3)])
    answering.close()
    found = explain_answer(settings, "ranking", "r00001")["explained"]
    assert found["contributions"]["method"].startswith("TreeSHAP by LightGBM")
    assert found["contributions"]["exact"]
    assert found["contributions"]["sum"] == pytest.approx(found["score"], rel=1e-6)


def test_a_release_that_this_machine_lacks_is_fetched(settings: Settings, rows: list[dict[str, Any]]) -> None:
    release(settings, version=2)
    whole = without_ages(explain_answer(settings, "ranking", "r00005"))
    shutil.rmtree(open_releases(settings, "ranking").release(1))
    assert without_ages(explain_answer(settings, "ranking", "r00005")) == whole


def without_ages(found: Any) -> Any:
    """What was found, without the seconds since the as-of dates, which go on."""
    if isinstance(found, list):
        return [without_ages(each) for each in found]
    if not isinstance(found, dict):
        return found
    return {name: without_ages(each) for name, each in found.items() if name != "age_s"}


def test_a_release_that_is_gone_leaves_features_and_scores(settings: Settings, rows: list[dict[str, Any]]) -> None:
    release(settings, version=2)
    shutil.rmtree(open_releases(settings, "ranking").release(1))
    shutil.rmtree(Path(settings.lake_uri, ".realtime", "ranking", "releases", "00000001"))
    found = explain_answer(settings, "ranking", "r00005")
    about = found["explained"]["contributions"]
    assert "There is no release 1 of ranking" in about["missing"]
    assert [each["name"] for each in found["explained"]["features"]] == ["#0", "#1", "#2", "#3"]
    assert found["candidates"][0]["item"] == found["explained"]["item"]
    assert found["today"]["release"] == 2
    assert found["candidates"][0]["score_today"] is not None


def test_a_view_that_is_not_published_now_is_named(settings: Settings, rows: list[dict[str, Any]]) -> None:
    shutil.rmtree(settings.store_path / "household")
    now = explain_answer(settings, "ranking", "r00005")["today"]
    assert (now["answered_by"], now["fallback_reason"]) == ("order_given", "lookup")
    assert "Nothing is published for household" in now["problem"]


def test_a_view_of_another_contract_is_named(settings: Settings, rows: list[dict[str, Any]]) -> None:
    release(settings, lookups=(replace(LOOKUPS[0], contract="others"), LOOKUPS[1]))
    now = explain_answer(settings, "ranking", "r00005")["today"]
    assert (now["release"], now["answered_by"], now["fallback_reason"]) == (2, "order_given", "contract")
    assert "the view household is not what the model was trained with" in now["problem"]


def test_a_request_that_would_be_refused_today_is_explained_all_the_same(
    settings: Settings, rows: list[dict[str, Any]]
) -> None:
    fields = (RequestField("household_id", "bigint"), RequestField("city", "string"))
    warmup = b'{"household_id": 1, "city": "Bern", "candidates": [{"product_id": "p1"}]}'
    release(settings, request=fields, warmup=[warmup])
    found = explain_answer(settings, "ranking", "r00005")
    assert "Release 2 would refuse the request" in found["today"]["missing"]
    assert "city" in found["today"]["missing"]
    assert found["explained"]["contributions"]["sum"] == pytest.approx(found["explained"]["score"], rel=1e-4)
    assert found["candidates"][0]["score_today"] is None


def test_a_transform_that_fails_today_is_named(settings: Settings, rows: list[dict[str, Any]]) -> None:
    def misbehaving(row: dict[str, Any]) -> dict[str, Any]:
        return row | {
            "request_id": "bad",
            "request": row["request"].replace(b'"household_id"', b'"store_id":668,"household_id"'),
        }

    write_log(settings, [misbehaving(of(rows, "r00005"))])
    release(settings, faults.misbehave)
    now = explain_answer(settings, "ranking", "bad")["today"]
    assert now["fallback_reason"] == "failed"
    assert "ValueError: store 668" in now["problem"]


def test_an_answer_without_the_model_has_no_contributions(settings: Settings) -> None:
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    write_log(settings, [answering.answer(requests(1)[0], why="deadline")])
    answering.close()
    found = explain_answer(settings, "ranking", "r00000")
    assert (found["answered_by"], found["fallback_reason"]) == ("order_given", "deadline")
    assert "The model was not asked" in found["explained"]["contributions"]["missing"]
    assert found["explained"]["score"] is None
    assert found["today"]["answered_by"] == "model"
    assert all(each["value"] is None for each in found["explained"]["features"])


def test_a_shadows_answer_is_not_taken_for_the_one_that_was_sent(
    settings: Settings, rows: list[dict[str, Any]]
) -> None:
    shadow = of(rows, "r00005") | {"variant": "shadow", "arrived_at": ARRIVED + timedelta(hours=1)}
    write_log(settings, [shadow])
    found = explain_answer(settings, "ranking", "r00005")
    assert found["variant"] == "current"
    assert [each["variant"] for each in found["also_logged"]] == ["shadow"]


def test_an_unknown_request_says_what_cannot_be_told_apart(settings: Settings, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(NotFoundError, match=r"no answer to the request 'nobody'.*sample.*committed yet.*keep_days"):
        explain_answer(settings, "ranking", "nobody")
    with pytest.raises(NotFoundError, match="no answer to the request 'r00005' on 2020-01-01"):
        explain_answer(settings, "ranking", "r00005", day=date(2020, 1, 1))
    with pytest.raises(NotFoundError, match="The lake has no request log of other"):
        explain_answer(settings, "other", "r00005")


@pytest.fixture
def said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.setattr("forecache.plugins.explain.command.settings", lambda: settings)
    for module in (explained_answer, output):
        monkeypatch.setattr(module, "make_console", lambda **_: Console(width=80, highlight=False, emoji=False))

    def run(*arguments: str, code: int = 0) -> str:
        assert main(["explain", *arguments]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return run


def test_the_command_fits_a_terminal_of_80_columns(rows: list[dict[str, Any]], said: Callable[..., str]) -> None:
    text = said("ranking", "r00005")
    assert max(map(len, text.splitlines())) <= 80
    for part in ("answered by model", "household version 1", "today", "Features of p", "popularity", "Background:"):
        assert part in text
    found = json.loads(said("ranking", "r00005", "--json"))
    assert found["explained"]["contributions"]["exact"]
    assert "Leave it out" in said("ranking", "r00005", "--version", "3", code=2)
    assert "cannot be told apart" in said("ranking", "nobody", code=3)


def test_a_model_without_candidates_is_explained(settings: Settings, said: Callable[..., str]) -> None:
    publish_views(settings)
    fields = (RequestField("household_id", "bigint"), RequestField("amount", "double"))
    release(
        settings, transforms.fraud, runtime="function", features=("amount", "spend"), candidates=None,
        request=fields, lookups=LOOKUPS[:1], warmup=[b'{"household_id": 1, "amount": 2.5}'],
    )  # fmt: skip
    answering = Answering(settings)
    bodies = [json.dumps({"request_id": f"q{n}", "household_id": n, "amount": n * 1.5}).encode() for n in range(1, 6)]
    write_log(settings, [answering.answer(body) for body in bodies])
    answering.close()
    found = json.loads(said("ranking", "q4", "--json"))
    assert found["candidates"] is None
    assert found["explained"]["contributions"]["sum"] == pytest.approx(found["explained"]["score"], rel=1e-5)
    text = said("ranking", "q4")
    assert "request q4: score 4.8889" in text
    assert text.count("model version 1 (function)") == 2
    alone = explain_answer(settings, "ranking", "q4")["explained"]["contributions"]["background"]
    assert alone.startswith("4 rows of this and 4 other logged requests")
