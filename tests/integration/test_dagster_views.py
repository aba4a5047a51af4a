"""Published views in the orchestrator: built, checked and published in the night of what uses them, or in their own."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from joined_sample import START, land_all

from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.serve.store import open_store
from jobs.definitions import build_definitions
from jobs.runner import run

NIGHT = START + timedelta(days=1)


def matrix(settings: Settings, view: str, keys: list[bytes]) -> list[list[float]]:
    with open_store(settings, view).snapshot() as snapshot:
        assert snapshot.manifest.as_of == NIGHT.isoformat()
        rows, found = snapshot.matrix(keys)
        return [row for row, there in zip(rows.tolist(), found.tolist(), strict=True) if there]


@pytest.mark.slow
def test_a_night_publishes_the_views_it_builds_and_a_view_has_a_night_of_its_own(tmp_path: Path, spark: object) -> None:
    settings = load_settings(home=tmp_path / "home", project="published_project", spark_master="local[2]")
    land_all(settings)
    stages: list[StageResult] = []
    run(settings, pipelines=["takings"], nights=(NIGHT, NIGHT), on_stage=stages.append)
    published = {stage.subject: stage for stage in stages if stage.stage == "publish"}
    assert set(published) == {"shop", "region", "takings"}
    assert matrix(settings, "shop", [b"a", b"b", b"c"]) == [[3.5], [7.0]]
    assert matrix(settings, "region", [b"north", b"south"]) == [[5.0]]
    run(settings, pipelines=["visitors"], nights=(NIGHT, NIGHT), on_stage=stages.append)
    assert stages[-1].subject == "visitors"
    assert matrix(settings, "visitors", [b"north"]) == [[5.0]]


def test_a_published_view_is_drawn_between_its_features_and_what_reads_it() -> None:
    repository = build_definitions(load_settings(project="published_project")).get_repository_def()
    repository.load_all_definitions()
    graph = repository.asset_graph
    for view in ("shop", "region", "visitors"):
        node = graph.get(dg.AssetKey(f"published_{view}"))
        assert (node.group_name, dg.AssetKey(f"features_{view}") in node.parent_keys) == ("feature_views", True)
    # The join builds these, so that they wait for it.
    assert (
        dg.AssetKey("features_takings")
        in graph.get(dg.AssetKey("published_shop")).parent_keys | graph.get(dg.AssetKey("published_region")).parent_keys
    )
    jobs = {job.name for job in repository.get_all_jobs()}
    assert {"shop_nightly", "region_nightly", "visitors_nightly", "takings_nightly"} <= jobs
    scheduled = {schedule.job_name for schedule in repository.schedule_defs}
    assert {"visitors_nightly", "takings_nightly"} <= scheduled
    assert scheduled.isdisjoint({"shop_nightly", "region_nightly"})
