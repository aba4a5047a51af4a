"""Logged requests answered by the releases of two environments, and the keys by which they read a store."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from logged_answers import (
    ARRIVED,
    HOUSEHOLD_VIEW,
    HOUSEHOLDS,
    NIGHT,
    PRODUCT_VIEW,
    Answering,
    publish_views,
    release,
    requests,
    write_log,
)
from parity_asked import declared

from forecache.base.settings import Settings, load_settings
from forecache.declare.project import Project
from forecache.declare.realtime.request_rows import order_of, scores_of
from forecache.plugins.diff.answered_requests import compare_requests
from forecache.plugins.diff.partition import Partition
from forecache.plugins.diff.served_answers import compare_served, requested_keys

PROJECT = Project({}, {}, realtime={"ranking": replace(declared, name="ranking")})
BODIES = requests(40)


def answer(settings: Settings) -> list[dict[str, Any]]:
    answering = Answering(settings)
    rows = [answering.answer(body, at=ARRIVED + timedelta(seconds=each)) for each, body in enumerate(BODIES)]
    answering.close()
    return rows


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Settings, Settings]:
    """Two environments with the same release over other features; the first one has a log."""
    before, after = (load_settings("", home=tmp_path / name) for name in "ab")
    for settings, shift in ((before, 0.0), (after, 0.5)):
        publish_views(settings, shift=shift)
        release(settings)
    write_log(before, answer(before))
    return before, after


def test_requests_are_counted_by_what_both_releases_answer(sides: tuple[Settings, Settings]) -> None:
    found = compare_requests(*sides, "ranking")
    assert found is not None
    pairs = list(zip(*map(answer, sides), strict=True))
    scores = [(scores_of(old), scores_of(new)) for old, new in pairs]
    orders = [not np.array_equal(order_of(old), order_of(new)) for old, new in pairs]
    others = [not np.array_equal(old, new, equal_nan=True) for old, new in scores if old is not None]
    assert found["requests"] == len(BODIES)
    assert found["scores"] == sum(others) > 0
    assert found["orders"] == sum(orders)
    assert found["same"] == sum(not (a or b) for a, b in zip(others, orders, strict=True))
    largest = max(np.nanmax(np.abs(new.astype(float) - old.astype(float))) for old, new in scores)
    assert found["largest_change"] == pytest.approx(largest)
    assert f"{found['scores']} have other scores" in found["sentence"]


def test_an_environment_and_itself_answer_the_same(sides: tuple[Settings, Settings]) -> None:
    found = compare_requests(sides[0], sides[0], "ranking")
    assert found is not None
    assert (found["requests"], found["same"], found["scores"], found["orders"]) == (len(BODIES), len(BODIES), 0, 0)


def test_without_a_log_or_a_release_it_says_so(sides: tuple[Settings, Settings], tmp_path: Path) -> None:
    assert compare_requests(sides[1], sides[0], "ranking") is None
    nothing = load_settings("", home=tmp_path / "c")
    found = compare_requests(sides[0], nothing, "ranking")
    assert found is not None
    assert found["requests"] == 0
    assert "No release of ranking" in found["sentence"]


def test_keys_of_logged_requests_are_looked_up(sides: tuple[Settings, Settings]) -> None:
    parsed = [orjson.loads(body) for body in BODIES]
    keys, origin = requested_keys(sides[0], "household", PROJECT)
    assert set(keys) == {str(body["household_id"]) for body in parsed}
    assert origin == "those of logged requests of ranking"
    products, _ = requested_keys(sides[0], "product", PROJECT)
    assert set(products) == {each["product_id"] for body in parsed for each in body["candidates"]}
    partition = Partition(sides[0], HOUSEHOLD_VIEW.feature_table, NIGHT)
    found = compare_served(*sides, "household", HOUSEHOLD_VIEW.key, partition, PROJECT)
    unknown = [key for key in keys if int(key) not in HOUSEHOLDS]
    assert (found["keys"], found["neither"]) == (len(keys), len(unknown))
    assert found["other"] == len(keys) - len(unknown)
    assert (found["same"], found["only_before"], found["only_after"]) == (0, 0, 0)
    assert origin in found["sentence"]


def test_without_requests_a_sample_of_the_keys_is_looked_up(sides: tuple[Settings, Settings]) -> None:
    partition = Partition(sides[0], PRODUCT_VIEW.feature_table, NIGHT)
    project = replace(PROJECT, realtime={})
    found = compare_served(sides[0], sides[0], "product", PRODUCT_VIEW.key, partition, project)
    assert (found["keys"], found["same"]) == (60, 60)
    assert "a random sample of the keys by hash" in found["sentence"]
