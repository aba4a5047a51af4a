"""A recommender's night: its lists are those of the model written out by hand, once, and only where the gate passes."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shelf_lake import LAST, copy_of, ingested, landing_of, lists_by_hand, rows_of
from shelf_project.pipelines.shelf import PURCHASES, offers

from forecache import RankingGate
from forecache.base.errors import CheckError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.tables import table_exists
from forecache.plugins.recommend.evaluation.report import write_report
from forecache.plugins.recommend.models import Popularity
from forecache.plugins.recommend.stage import recommend, refused_dates

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def lake(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return ingested(spark, tmp_path_factory.mktemp("shelf") / "home")


@pytest.fixture
def home(lake: Settings, tmp_path: Path) -> Settings:
    return copy_of(lake, tmp_path / "home")


def test_lists_are_those_of_the_model_written_out_by_hand(home: Settings) -> None:
    earlier = LAST - timedelta(days=7)
    result = recommend(home, offers, [LAST, earlier])
    assert result.details["built"] == [earlier.isoformat(), LAST.isoformat()]
    rows = rows_of(home)
    for night in (earlier, LAST):
        expected = lists_by_hand(home, night)
        found = {row["customer"]: row["items"] for row in rows if row["as_of"] == night}
        assert len([row for row in rows if row["as_of"] == night]) == len(found) == len(expected)
        assert {key: [item["item"] for item in items] for key, items in found.items()} == expected
        for items in found.values():
            assert [item["score"] for item in items] == sorted((item["score"] for item in items), reverse=True)
    assert {row["model_version"] for row in rows} == {int(f"{earlier:%Y%m%d}"), int(f"{LAST:%Y%m%d}")}
    assert result.rows == len(rows)


def test_a_reason_is_an_article_that_the_customer_has_bought(home: Settings) -> None:
    recommend(home, offers, [LAST])
    from shelf_lake import purchases

    bought = {(row["customer"], row["article"]) for row in purchases(home, LAST)}
    reasons = [(row["customer"], item["reason"]) for row in rows_of(home) for item in row["items"]]
    assert sum(reason is not None for _, reason in reasons) > len(reasons) / 2
    assert {pair for pair in reasons if pair[1] is not None} <= bought


def test_what_is_current_is_not_done_again_and_a_changed_declaration_or_a_late_file_is(
    home: Settings, spark: "SparkSession"
) -> None:
    from forecache.lake.ingest.ingest import ingest

    assert not recommend(home, offers, [LAST]).skipped
    assert recommend(home, offers, [LAST]).skipped
    described = replace(offers, description="Other words.")
    assert recommend(home, described, [LAST]).skipped
    shorter = replace(offers, k=3, gate=RankingGate(test_days=14, at=3))
    assert not recommend(home, shorter, [LAST]).skipped
    assert {len(row["items"]) for row in rows_of(home)} == {3}
    day = LAST - timedelta(days=3)
    late = landing_of(home) / PURCHASES.name / f"{day}-late.csv"
    late.write_text(f"customer,article,shelf,quantity,day\nnewcomer,tools-00,tools,1,{day}\n")
    ingest(home, PURCHASES)
    assert not recommend(home, offers, [LAST]).skipped
    found = {row["customer"]: [item["item"] for item in row["items"]] for row in rows_of(home)}
    assert found == lists_by_hand(home, LAST)
    assert "newcomer" in found


def test_a_model_that_ranks_no_better_than_the_rules_is_refused_and_nothing_is_written(home: Settings) -> None:
    with pytest.raises(CheckError, match=r"ndcg@10 0\.\d+ on \d+ users; at least 0.99 is wanted. Nothing was written"):
        recommend(home, replace(offers, gate=RankingGate(test_days=14, floor=0.99)), [LAST])
    with pytest.raises(CheckError, match=r"against popularity \(.* to .*\); surely more than \+0.5 is wanted"):
        recommend(home, replace(offers, gate=RankingGate(test_days=14, margin=0.5)), [LAST])
    assert not table_exists(home, offers.prediction_table)


def test_the_gate_s_figures_are_in_the_result(home: Settings) -> None:
    night = recommend(home, offers, [LAST]).details["nights"][LAST.isoformat()]
    figures = night["figures"]
    assert figures["model"] > figures["popularity"] > 0
    assert figures["repeat_purchase"] == 0  # nobody buys an article twice
    assert 0 < night["low"] <= night["difference"] <= night["high"]
    assert (night["metric"], night["against"]) == ("ndcg@10", "popularity")


def test_a_day_without_a_file_and_a_test_without_history_are_refused(home: Settings) -> None:
    longer = replace(offers, source=replace(PURCHASES, end=LAST + timedelta(days=1)))
    with pytest.raises(InputError, match="has no landing file for that day"):
        recommend(home, longer, [LAST + timedelta(days=1)])
    with pytest.raises(InputError, match="offers cannot be judged for .*: there are no interactions before"):
        recommend(home, replace(offers, gate=RankingGate(test_days=365)), [LAST])
    assert not table_exists(home, offers.prediction_table)


def test_a_date_that_is_refused_does_not_stop_the_others_and_is_told_at_the_end(home: Settings) -> None:
    first = PURCHASES.start + timedelta(days=3)
    result = recommend(home, offers, [first, LAST - timedelta(days=1), LAST])
    assert result.details["built"] == [(LAST - timedelta(days=1)).isoformat(), LAST.isoformat()]
    assert list(result.details["refused"]) == [first.isoformat()]
    assert {row["as_of"] for row in rows_of(home)} == {LAST - timedelta(days=1), LAST}
    told = refused_dates(result)
    assert told.startswith(f"1 of 3 dates of offers were refused. {first}: offers cannot be judged for")
    assert refused_dates(recommend(home, offers, [LAST])) == ""
    with pytest.raises(
        InputError, match=f"All 2 dates of offers were refused. {first}: .* {first + timedelta(days=1)}: "
    ):
        recommend(home, offers, [first, first + timedelta(days=1)])


def test_the_interactions_that_published_lists_come_from_are_kept_and_explained(
    home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shelf_lake import purchases

    from forecache.cli.main import main
    from forecache.operations.publish_night import publish_night
    from forecache.plugins.maintenance.lake import pinned_versions

    recommend(home, offers, [LAST])
    assert PURCHASES.raw_table not in pinned_versions(home)
    [similar] = offers.second_tables
    for served in (offers, similar):
        publish_night(home, served, unchecked=True)
    [row] = [row for row in rows_of(home) if row["customer"] == "c007"]
    assert {pin.version for pin in pinned_versions(home)[PURCHASES.raw_table]} == {row["feature_version"]}

    monkeypatch.setenv("FORECACHE_HOME", str(home.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    assert main(["explain", "offers", "c007", "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    own = [bought for bought in purchases(home, LAST) if bought["customer"] == "c007"]
    assert chain["interactions"]["events"] == len(own)
    assert chain["interactions"]["delta_version"] == row["feature_version"]
    assert chain["prediction"]["row"]["items"] == row["items"]
    assert chain["model"]["gate"]["figures"]["model"] > 0
    assert chain["model"]["declared"].startswith("WithFallback(model=Ease(l2=20.0")
    assert main(["explain", "offers", "c007"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"interactions in raw_purchases at Delta version {row['feature_version']}" in text
    assert "gate: ndcg@10 on" in text
    assert row["items"][0]["item"] in text
    assert main(["explain", "offers_items", own[0]["article"], "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    takers = [bought for bought in purchases(home, LAST) if bought["article"] == own[0]["article"]]
    assert chain["interactions"]["events"] == len(takers)
    assert main(["explain", "offers", "nobody"]) == 3


def test_the_page_shows_the_gate_and_the_lists_of_three_customers(home: Settings) -> None:
    with pytest.raises(NotFoundError, match="offers has no lists of"):
        write_report(home, offers, LAST)
    recommend(home, offers, [LAST])
    page = write_report(home, offers, LAST).read_text()
    lists = lists_by_hand(home, LAST)
    shown = [customer for customer in lists if f"customer {customer}<" in page]
    assert len(shown) == 3
    for customer in shown:
        for article in lists[customer]:
            assert f">{article}<" in page
    assert "The model passed its gate" in page
    assert "above popularity" in page


def test_the_page_shows_only_customers_whose_interactions_count(home: Settings) -> None:
    lately = replace(
        offers, history_days=3, exclude_days=3, gate=RankingGate(test_days=1, margin=None), model=Popularity()
    )
    recommend(home, lately, [LAST])
    page = write_report(home, lately, LAST).read_text()
    having = {row["customer"] for row in rows_of(home)}
    assert len(having) < len(lists_by_hand(home, LAST))
    assert sum(f"customer {customer}<" in page for customer in having) == 3
