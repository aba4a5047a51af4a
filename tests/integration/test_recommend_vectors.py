"""A recommender's vectors: their dot product is the score on the lists, and they are published packed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shelf_lake import LAST, copy_of, ingested, rows_of
from shelf_project.pipelines.shelf import offers

from forecache import RankingGate
from forecache.base.errors import SettingsError
from forecache.base.settings import Settings
from forecache.operations.publish_night import publish_night
from forecache.plugins.recommend.models import Als, Ease
from forecache.plugins.recommend.stage import recommend
from forecache.serve.store import open_store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

tastes = replace(
    offers,
    name="tastes",
    model=Als(factors=6, iterations=5),
    vectors=True,
    similar_items=None,
    gate=RankingGate(test_days=14, margin=None),
)
of_users, of_items = tastes.second_tables


@pytest.fixture(scope="module")
def home(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = ingested(spark, tmp_path_factory.mktemp("shelf") / "home")
    recommend(settings, tastes, [LAST])
    return settings


def _vectors(home: Settings, table: str, key: str) -> dict[str, np.ndarray]:
    return {row[key]: np.array(row["vector"], np.float32) for row in rows_of(home, table)}


def test_the_dot_product_of_both_vectors_is_the_score_on_the_list(home: Settings) -> None:
    users = _vectors(home, of_users.prediction_table, "customer")
    items = _vectors(home, of_items.prediction_table, "article")
    scores = [
        (float(users[row["customer"]] @ items[place["item"]]), place["score"])
        for row in rows_of(home, tastes.prediction_table)
        for place in row["items"]
    ]
    assert len(scores) > 100
    found, expected = np.array(scores).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_they_are_published_packed_and_read_as_a_matrix(home: Settings, tmp_path: Path) -> None:
    settings = copy_of(home, tmp_path / "home")
    for table in (of_users, of_items):
        publish_night(settings, table, unchecked=True)
    users = _vectors(settings, of_users.prediction_table, "customer")
    with open_store(settings, of_users.name).snapshot() as snapshot:
        assert snapshot.columns == tuple(f"vector_{i}" for i in range(6))
        matrix, found = snapshot.matrix([name.encode() for name in (*users, "nobody")])
    np.testing.assert_array_equal(matrix[:-1], np.stack(list(users.values())))
    assert found.tolist() == [True] * len(users) + [False]


def test_the_same_night_again_gives_the_same_vectors_and_writes_nothing(home: Settings) -> None:
    assert recommend(home, tastes, [LAST]).skipped
    assert not recommend(home, replace(tastes, seed=8), [LAST]).skipped


def test_a_model_whose_score_is_no_dot_product_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'Ease'.*no dot product"):
        replace(tastes, model=Ease(l2=20.0))
