"""A recommender's run for a range of dates: what is refused holds up neither the other dates nor their publication."""

from datetime import timedelta
from pathlib import Path

import pytest
import shelf_project
from shelf_lake import LAST, landing_of, rows_of
from shelf_project.pipelines.shelf import PURCHASES

from forecache.base.errors import CheckError
from forecache.base.results import StageResult
from forecache.base.settings import load_settings
from forecache.serve.store import open_store
from jobs.runner import run


def test_the_dates_that_are_not_refused_are_checked_and_published_and_the_run_fails_at_its_end(
    tmp_path: Path, spark: object
) -> None:
    settings = load_settings(home=tmp_path / "home", project="shelf_project", spark_master="local[2]")
    shelf_project.land(landing_of(settings))
    [file] = (landing_of(settings) / PURCHASES.name).glob(f"{LAST}*")
    file.unlink()
    good = LAST - timedelta(days=1)
    stages: list[StageResult] = []
    with pytest.raises(CheckError, match=rf"1 of 2 dates of offers were refused\. {LAST}: As-of date {LAST} is empty"):
        run(settings, pipelines=["offers"], nights=(good, LAST), on_stage=stages.append)
    published = [stage.subject for stage in stages if stage.stage == "publish"]
    assert sorted(published) == ["offers", "offers_items"]
    for name in published:
        manifest = open_store(settings, name).current()
        assert manifest is not None
        assert manifest.as_of == good.isoformat()
        assert {row["as_of"] for row in rows_of(settings, f"predictions_{name}")} == {good}
