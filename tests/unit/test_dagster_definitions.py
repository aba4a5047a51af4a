"""The definitions as a snapshot, and what holds for every asset."""

import dataclasses
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.partitions import daily_partitions, raw_freshness
from assets.predictions import build_predictions
from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.declare.loading import load_pipeline
from jobs.definitions import build_definitions
from jobs.schedules import partition_tags
from resources.instance import LOCATION

STAGES = ("training_set", "candidate", "model", "predictions", "published")
SUPPORT = Path(__file__).parent.parent / "support"
PER_PIPELINE = (*STAGES, "drift_report", "monitoring")


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions(load_settings()).get_repository_def()


def test_asset_keys_are_those_of_every_source_and_pipeline(repository: dg.RepositoryDefinition) -> None:
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    expected = {"landing_purchases", "raw_purchases", "quarantine_purchases", "features_customer", "cost"}
    expected |= {f"{stage}_{pipeline}" for stage in PER_PIPELINE for pipeline in ("churn", "spend")}
    assert keys == expected


def test_jobs_schedules_and_sensors_are_those_of_every_source_and_pipeline(repository: dg.RepositoryDefinition) -> None:
    # Loads them all, and so fails on what only shows then, such as two ops of one name.
    repository.load_all_definitions()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    kinds = ("nightly", "training", "full", "monitor")
    assert jobs == {
        "purchases_ingest",
        "verify_stores",
        "maintain_lake",
        "cost_report",
        "backfill",
        "churn_tuning",  # the search is for networks, and `spend` has trees
        *(f"{p}_{kind}" for kind in kinds for p in ("churn", "spend")),
    }
    schedules = {(schedule.name, schedule.cron_schedule) for schedule in repository.schedule_defs}
    assert schedules == {
        *((f"{p}_nightly_schedule", "0 3 * * *") for p in ("churn", "spend")),
        *((f"{p}_training_schedule", "0 5 * * 0") for p in ("churn", "spend")),
        *((f"{p}_monitor_schedule", "0 4 * * *") for p in ("churn", "spend")),
        ("verify_stores_schedule", "0 6 * * 6"),
        ("maintain_lake_schedule", "0 1 * * 0"),
        ("cost_report_schedule", "0 7 * * *"),
    }
    # `spend` declares no retraining.
    sensors = {"purchases_landed", "churn_drifted", "alerts", "runs_without_dagster"}
    assert {sensor.name for sensor in repository.sensor_defs} == sensors


def test_a_project_with_a_rollout_and_a_log_loads_with_a_job_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    repository = build_definitions(load_settings(project="pictured_project")).get_repository_def()
    repository.load_all_definitions()
    assert {"ranking_rollout", "ranking_parity", "search_parity"} <= set(repository.job_names)
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {"rollout_ranking", "parity_ranking", "parity_search", "stream_cards"} <= keys
    assert {sensor.name for sensor in repository.sensor_defs} >= {"ranking_rollout_under_way", "streams"}


def test_pipelines_that_share_a_view_select_its_one_asset_in_their_nights(repository: dg.RepositoryDefinition) -> None:
    shared = dg.AssetKey("features_customer")
    for name in ("churn_nightly", "spend_nightly", "churn_full", "spend_full"):
        assert shared in repository.get_job(name).asset_layer.executable_asset_keys
    for name in ("predictions_churn", "predictions_spend"):
        assert shared in repository.asset_graph.get(dg.AssetKey(name)).parent_keys


def test_each_pipeline_is_a_group_all_sources_are_one_and_all_views_are_one(
    repository: dg.RepositoryDefinition,
) -> None:
    groups: dict[str, set[str]] = {}
    for key in repository.asset_graph.get_all_asset_keys():
        groups.setdefault(repository.asset_graph.get(key).group_name, set()).add(key.to_user_string())
    assert groups == {
        "sources": {"landing_purchases", "raw_purchases", "quarantine_purchases"},
        "feature_views": {"features_customer"},
        **{name: {f"{stage}_{name}" for stage in PER_PIPELINE} for name in ("churn", "spend")},
        "monitoring": {"cost"},
    }


def test_a_live_model_a_stream_and_its_topic_have_the_groups_of_their_declarations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    graph = build_definitions(load_settings(project="pictured_project")).resolve_asset_graph()
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    ranking = ("training_set", "candidate", "model", "released", "rollout", "parity", "logged_drift")
    assert {groups[f"{stage}_ranking"] for stage in ranking} == {"ranking"}
    assert groups["published_household"] == "feature_views"
    assert groups["topic_payments"] == groups["stream_cards"] == "cards"
    assert groups["landing_payments"] == groups["raw_sales"] == "sources"
    assert groups["live_customer"] == "feature_views"
    between = {
        (groups[up.to_user_string()], groups[key.to_user_string()])
        for key in graph.get_all_asset_keys()
        for up in graph.get(key).parent_keys
    }
    order = ("cards", "sources", "feature_views", "ranking", "search")
    assert all(order.index(up) <= order.index(down) for up, down in between), "collapsed groups would be a circle"


def test_assets_link_to_the_page_on_their_declaration_if_the_servers_address_is_known(
    repository: dg.RepositoryDefinition,
) -> None:
    address = "https://forecache.example.org"
    known = build_definitions(load_settings(reader_public_url=f"{address}/")).resolve_asset_graph()
    for asset, name in (("predictions_churn", "churn"), ("model_spend", "spend"), ("features_customer", "customer")):
        key = dg.AssetKey(asset)
        assert known.get(key).metadata["page"] == dg.MetadataValue.url(f"{address}/status/{name}")
        assert repository.asset_graph.get(key).metadata["page"].value == f"forecache report {name} --open"
    assert "page" not in known.get(dg.AssetKey("raw_purchases")).metadata


def test_every_asset_has_kinds_and_description_and_an_owner_only_if_one_is_declared(
    repository: dg.RepositoryDefinition,
) -> None:
    for key in repository.asset_graph.get_all_asset_keys():
        node = repository.asset_graph.get(key)
        assert node.kinds, key
        assert not node.owners, key
        assert len(node.description or "") > 40, key
    churn = load_pipeline(load_settings(), "churn")
    for owner in ("ml@shop.example", "team:ml"):
        asset = build_predictions(dataclasses.replace(churn, owner=owner))
        assert {tuple(spec.owners) for spec in asset.specs} == {(owner,)}


def test_predictions_are_of_kind_onnx_only_where_the_model_is_an_exported_network(
    repository: dg.RepositoryDefinition,
) -> None:
    trees = build_definitions(load_settings(project="estimator_project")).resolve_asset_graph()
    [predictions] = [key for key in trees.get_all_asset_keys() if key.path[-1].startswith("predictions_")][:1]
    assert trees.get(predictions).kinds == {"deltalake"}
    assert repository.asset_graph.get(dg.AssetKey("predictions_churn")).kinds == {"deltalake", "onnx"}


def test_a_range_of_nights_is_one_run_for_every_partitioned_asset(repository: dg.RepositoryDefinition) -> None:
    partitioned = [
        node
        for node in (repository.asset_graph.get(key) for key in repository.asset_graph.get_all_asset_keys())
        if node.partitions_def is not None
    ]
    assert len(partitioned) == 9
    assert {node.backfill_policy for node in partitioned} == {dg.BackfillPolicy.single_run()}


def test_what_is_scored_and_published_waits_for_blocking_checks(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    blocking = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys if graph.get(key).blocking}
    assert ("raw_purchases", "adds_up_to_what_landed") in blocking
    assert ("training_set_churn", "splits_are_apart") in blocking
    for table in ("raw_purchases", "features_customer", "predictions_churn", "predictions_spend"):
        assert (table, "meets_expectations") in blocking


def test_the_checkouts_workspace_names_the_shipped_project_as_forecache_dev_does() -> None:
    [location] = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"] == {"module_name": "dagster_project.definitions", "location_name": LOCATION}


def test_loading_the_definitions_imports_no_heavy_library() -> None:
    code = (
        "import sys; from dagster_project.definitions import defs; from jobs import runner;"
        "from jobs.definitions import build_definitions; from forecache.base.settings import load_settings;"
        "build_definitions(load_settings()).get_repository_def().load_all_definitions();"
        "heavy = {'pyspark', 'torch', 'mlflow', 'great_expectations', 'pandas', 'matplotlib'};"
        "heavy |= {'deltalake'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_broken_module_is_an_asset_that_says_why_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "torn_project" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "bad.py").write_text(f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\nimport no_such_module\n")
    (folder / "good.py").write_text("from dagster_project.pipelines.churn import churn\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = build_definitions(load_settings(home=tmp_path, project="torn_project")).resolve_asset_graph()
    assert "No module named 'no_such_module'" in (graph.get(dg.AssetKey("broken_bad")).description or "")
    assert graph.get(dg.AssetKey("predictions_churn")).is_materializable
    assert (tmp_path / "runs").read_text() == "x"


def test_days_include_both_ends_and_end_with_the_data() -> None:
    days = daily_partitions(date(2026, 1, 1), date(2026, 1, 3))
    assert days.get_partition_keys() == ["2026-01-01", "2026-01-02", "2026-01-03"]
    yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
    assert daily_partitions(yesterday, None).get_partition_keys() == [yesterday.isoformat()]


def test_one_night_is_a_partition_and_several_are_a_range() -> None:
    first, last = date(2026, 1, 1), date(2026, 1, 3)
    assert partition_tags(first, first) == {"dagster/partition": "2026-01-01"}
    assert set(partition_tags(first, last).values()) == {"2026-01-01", "2026-01-03"}
    assert len(partition_tags(first, last)) == 2


def test_nightly_schedule_asks_for_the_last_night_of_data_that_have_ended(repository: dg.RepositoryDefinition) -> None:
    schedule = repository.get_schedule_def("churn_nightly_schedule")
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 3, 1, 3, tzinfo=timezone.utc))
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.tags["dagster/partition"] == "1998-06-30"


def test_only_data_that_go_on_have_a_freshness_policy() -> None:
    assert raw_freshness(date(1998, 6, 30)) is None
    assert raw_freshness(None) == dg.FreshnessPolicy.cron("0 6 * * *", lower_bound_delta=timedelta(hours=6))
