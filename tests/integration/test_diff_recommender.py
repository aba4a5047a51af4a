"""A recommender's lists and vectors of two environments: overlap, ranks and distances are those of plain Python."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shelf_lake import LAST, copy_of, ingested, rows_of
from shelf_project.pipelines.shelf import offers

from forecache import RankingGate
from forecache.base.settings import Settings
from forecache.plugins.diff.compare_partitions import PartitionDiff, compare_partitions
from forecache.plugins.diff.compared_tables import ComparedTable, newest_common_date, tables_of
from forecache.plugins.diff.partition import Partition
from forecache.plugins.recommend.models import Als
from forecache.plugins.recommend.stage import recommend

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
tastes = replace(
    offers,
    name="tastes",
    model=Als(factors=6, iterations=5),
    vectors=True,
    similar_items=None,
    gate=RankingGate(test_days=14, margin=None),
)
TABLES = {each.table: each for each in tables_of(tastes)}


@pytest.fixture(scope="module")
def sides(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Settings]:
    folder = tmp_path_factory.mktemp("shelf")
    before = ingested(spark, folder / "before")
    after = copy_of(before, folder / "after")
    recommend(before, tastes, [LAST])
    recommend(after, replace(tastes, seed=8), [LAST])
    return before, after


def compare(sides: tuple[Settings, Settings], about: ComparedTable) -> PartitionDiff:
    before, after = (Partition(settings, about.table, LAST) for settings in sides)
    return compare_partitions(before, after, about.key, answers=about.answers)


def by_key(settings: Settings, about: ComparedTable) -> dict[Any, Any]:
    return {row[about.key[0]]: row[about.answers[0]] for row in rows_of(settings, about.table)}


def test_all_its_tables_are_compared_for_the_newest_date(sides: tuple[Settings, Settings]) -> None:
    assert list(TABLES) == [
        "predictions_tastes", "predictions_tastes_user_vectors", "predictions_tastes_item_vectors"
    ]  # fmt: skip
    assert newest_common_date(*sides, tables_of(tastes)) == LAST


def test_lists_have_the_overlap_and_ranks_of_their_items(sides: tuple[Settings, Settings]) -> None:
    about = TABLES["predictions_tastes"]
    ours, theirs = (by_key(settings, about) for settings in sides)
    overlaps, ranks = [], []
    for key, old in ours.items():
        before, after = ([place["item"] for place in items] for items in (old, theirs[key]))
        overlaps.append(len({*before} & {*after}) / len({*before} | {*after}))
        common = [item for item in before if item in after]
        if len(common) > 1:
            places = np.argsort(np.argsort([after.index(item) for item in common]))
            ranks.append(np.corrcoef(np.arange(len(common)), places)[0, 1])
    found = compare(sides, about)
    [column] = found.columns
    assert found.changed == found.answers_changed == sum(ours[key] != theirs[key] for key in ours) > 0
    assert column.overlap == pytest.approx(np.mean(overlaps))
    assert column.rank_correlation == pytest.approx(np.mean(ranks))
    assert 0 < np.mean(overlaps) < 1


def test_vectors_have_the_euclidean_distance(sides: tuple[Settings, Settings]) -> None:
    about = TABLES["predictions_tastes_user_vectors"]
    ours, theirs = (by_key(settings, about) for settings in sides)
    distances = {key: float(np.linalg.norm(np.subtract(theirs[key], ours[key]))) for key in ours}
    [column] = compare(sides, about).columns
    largest = sorted(distances, key=lambda key: -distances[key])[:5]
    assert [mover.key for mover in column.movers] == [(key,) for key in largest]
    assert column.mean_absolute_change == pytest.approx(np.mean(list(distances.values())))
    assert column.largest_change == pytest.approx(distances[largest[0]])


def test_a_side_and_its_copy_are_equal(sides: tuple[Settings, Settings], tmp_path: Path) -> None:
    same = copy_of(sides[0], tmp_path / "copy")
    for about in TABLES.values():
        assert not compare((sides[0], same), about).differs
