"""Whom the gate judges by, and what it expects on their lists."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from forecache import RankingGate, Recommender
from forecache.base.errors import CheckError, InputError
from forecache.base.settings import load_settings
from forecache.declare import Column, Source
from forecache.plugins.recommend.evaluation.gate import judge
from forecache.plugins.recommend.interactions import Interactions, read_interactions
from forecache.plugins.recommend.lists import lists_of
from forecache.plugins.recommend.models import Als, Ease, Popularity, RecommenderModel, WithFallback

NIGHT = date(2026, 3, 31)
SOURCE = Source(
    name="visits",
    columns=(
        Column("who", "string"),
        Column("what", "string"),
        Column("kind", "string", required=False),
        Column("day", "date"),
    ),
    event_time="day",
    start=date(2026, 1, 1),
)


def recommender(*, gate: dict[str, Any], **changes: Any) -> Recommender:
    judged = RankingGate(**{"at": 2, "test_days": 10, "margin": None, **gate})
    return Recommender("r", SOURCE, user="who", item="what", model=Popularity(), gate=judged, **changes)


def interactions(rows: list[tuple[str, str, int]]) -> Interactions:
    """Rows of user, item, days before NIGHT."""
    who, what, age = zip(*rows, strict=True)
    table = pa.table({"who": who, "what": what, "day": [NIGHT - timedelta(days=each) for each in age]})
    return Interactions.from_table(table, user="who", item="what", time="day")


BEFORE = [("ann", "ale", 12), ("bob", "ale", 20), ("bob", "bun", 40), ("cid", "bun", 40)]


def test_a_user_without_a_history_is_not_judged_by_since_there_would_be_no_list() -> None:
    found = judge(recommender(gate={}), interactions([*BEFORE, ("ann", "bun", 2), ("new", "ale", 2)]), NIGHT)
    assert found["users"] == 1
    with pytest.raises(InputError, match="Nobody with a history chose an item in the 10 days"):
        judge(recommender(gate={}), interactions([*BEFORE, ("new", "ale", 2)]), NIGHT)


@pytest.mark.parametrize("metric", ["ndcg", "recall", "precision"])
def test_what_is_kept_off_a_list_is_not_expected_on_it(metric: str) -> None:
    """On the eve, ten days ago, ann had taken the ale 2 days and bob 10 days before: within 5 days is only ann's."""
    rows = interactions([*BEFORE, ("ann", "ale", 2), ("ann", "bun", 2), ("bob", "ale", 2), ("cid", "bun", 2)])
    for exclude_days, users in ((0, 3), (5, 3), (None, 1)):
        found = judge(recommender(gate={"metric": metric}, exclude_days=exclude_days), rows, NIGHT)
        assert found["users"] == users
    only_old = interactions([*BEFORE, ("ann", "ale", 2), ("cid", "bun", 2)])
    assert judge(recommender(gate={"metric": metric}, exclude_days=5), only_old, NIGHT)["users"] == 1
    # Ann's last interaction is three days old on the eve; three days ending there have it, two do not.
    assert judge(recommender(gate={"metric": metric}, exclude_days=3), only_old, NIGHT)["users"] == 1
    assert judge(recommender(gate={"metric": metric}, exclude_days=2), only_old, NIGHT)["users"] == 2


def test_figures_are_compared_as_they_are_and_not_as_they_are_shown() -> None:
    rows = [*BEFORE, *((user, item, 2) for user, item in (("ann", "ale"), ("bob", "ale"), ("cid", "cod")))]
    assert judge(recommender(gate={"metric": "recall", "at": 1, "floor": 0.6666}), interactions(rows), NIGHT)
    with pytest.raises(CheckError, match=r"recall@1 0.6667 on 3 users; at least 0.66667 is wanted"):
        judge(recommender(gate={"metric": "recall", "at": 1, "floor": 0.66667}), interactions(rows), NIGHT)


def test_an_item_has_its_latest_group_and_one_without_is_not_limited(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    days = [NIGHT - timedelta(days=age) for age in (3, 2, 1, 1, 1, 1, 1)]
    rows = {
        "who": ["ann"] * 7,
        "what": ["ale", "ale", "ale", "bun", "bun", "cod", "dip"],
        "kind": ["drink", "old", None, "old", "bread", None, None],
        "day": days,
        "event_day": days,
    }
    write_deltalake(settings.table_uri(SOURCE.raw_table), pa.table(rows), partition_by=["event_day"])
    declared = recommender(gate={}, group="kind", most_of_group=1)
    found, groups = read_interactions(settings, declared, NIGHT)
    assert groups == {"ale": "old", "bun": "old"}
    fitted = declared.model.fit(found, seed=1)
    ((_, lists),) = lists_of(declared, fitted, found, NIGHT, groups).parts(1)
    assert [item["item"] for item in lists[0].as_py()] == ["ale", "cod", "dip"]


@pytest.mark.parametrize("model", [Ease(l2=1.0), Als(factors=2)])
def test_a_user_about_whom_a_model_knows_nothing_has_no_list_but_by_a_fallback(model: RecommenderModel) -> None:
    table = pa.table(
        {
            "who": ["ann", "ann", "bob", "new"],
            "what": ["ale", "bun", "bun", "bun"],
            "times": [1.0, 1.0, 2.0, 0.0],
            "day": [NIGHT] * 4,
        }
    )
    found = Interactions.from_table(table, user="who", item="what", time="day", weight="times")
    # A weight of 0 is no reason to recommend anything.
    weighted = replace(model, weight_power=1.0)
    for fitting, expected in ((weighted, [2, 2, 0]), (WithFallback(weighted), [2, 2, 2])):
        declared = replace(recommender(gate={}), model=fitting)
        ((_, lists),) = lists_of(declared, fitting.fit(found, seed=1), found, NIGHT, None).parts(10)
        assert [len(items) for items in lists.to_pylist()] == expected
