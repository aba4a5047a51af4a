"""A recommender that is killed after any step, or runs twice at once, writes each list once."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shelf_lake import LAST, copy_of, ingested, lists_by_hand, recommend_until, rows_of, similar_by_hand
from shelf_project.pipelines.shelf import offers
from warm import assert_valid_log, processes, start

from forecache.base.settings import Settings
from forecache.lake.ledger import last_record
from forecache.plugins.recommend.evaluation.report import write_report

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def lake(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return ingested(spark, tmp_path_factory.mktemp("shelf") / "home")


def run(settings: Settings, step: str, number: int = 1) -> str:
    """Recommend in a process that is killed after a step has been done so often; what it told last."""
    ours, theirs = processes().Pipe(duplex=False)
    process = start(recommend_until, settings.home_path, step, number, theirs)
    theirs.close()
    try:
        return str(ours.recv())
    except EOFError:
        return ""
    finally:
        process.join()


def assert_whole(settings: Settings) -> None:
    rows = rows_of(settings)
    found = {row["customer"]: [item["item"] for item in row["items"]] for row in rows}
    assert len(found) == len(rows)
    assert found == lists_by_hand(settings, LAST)
    assert_valid_log(settings.table_uri(offers.prediction_table))
    recorded = last_record(settings, "recommend", "offers", LAST)
    assert recorded is not None
    assert recorded.rows == len(rows)
    items = rows_of(settings, "predictions_offers_items")
    lists = {row["article"]: [place["item"] for place in row["items"]] for row in items}
    assert len(lists) == len(items)
    assert lists == {article: list(found) for article, found in similar_by_hand(settings, LAST).items()}
    assert_valid_log(settings.table_uri("predictions_offers_items"))


@pytest.mark.parametrize("number", [1, 2], ids=["lists of items", "lists of users"])
@pytest.mark.parametrize("step", ["file written", "decided", "committed"])
def test_a_run_that_is_killed_after_a_step_is_finished_by_the_next(
    lake: Settings, tmp_path: Path, step: str, number: int
) -> None:
    settings = copy_of(lake, tmp_path / "home")
    assert run(settings, step, number) == step
    assert run(settings, "") in (f'["{LAST}"]', "[]")
    assert_whole(settings)
    assert "The model passed its gate" in write_report(settings, offers, LAST).read_text()


def test_of_two_runs_at_once_one_writes(lake: Settings, tmp_path: Path) -> None:
    for number in range(4):
        settings = copy_of(lake, tmp_path / f"home-{number}")
        pipes = [processes().Pipe(duplex=False) for _ in range(2)]
        both = [start(recommend_until, settings.home_path, "", 1, theirs) for _, theirs in pipes]
        told = sorted(str(ours.recv()) for ours, _ in pipes)
        for process in both:
            process.join()
        assert told == [f'["{LAST}"]', "[]"]
        assert_whole(settings)
