"""Feature views: computed once for all pipelines that use them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from dagster_project.purchases import PURCHASES
from forecache.lake.delta.tables import table_exists, table_version
from forecache.lake.features import build_features, feature_versions
from forecache.lake.ingest.ingest import ingest
from forecache.pipeline import load_pipelines
from forecache.settings import Settings


def test_second_pipeline_of_a_view_finds_its_table_current(settings: Settings, spark: Any) -> None:
    folder = Path(settings.landing_uri) / PURCHASES.name
    folder.mkdir(parents=True)
    (folder / f"{PURCHASES.start}.csv").write_text(f"customer_id,date,quantity,amount\n00001,{PURCHASES.start},1,9.5\n")
    ingest(spark, settings, PURCHASES)
    churn, spend = load_pipelines(settings).values()
    first = build_features(spark, settings, churn, [PURCHASES.start])
    second = build_features(spark, settings, spend, [PURCHASES.start])
    assert (first.table, first.rows, first.skipped) == ("features_customer", 1, False)
    assert (second.table, second.rows, second.skipped) == ("features_customer", 1, True)
    assert table_version(settings, "features_customer") == first.delta_version
    assert not any(table_exists(settings, f"features_{name}") for name in ("churn", "spend"))
    versions = [feature_versions(settings, pipeline, [PURCHASES.start]) for pipeline in (churn, spend)]
    assert versions[0] == versions[1] == {PURCHASES.start: first.delta_version}
    assert PURCHASES.start + timedelta(days=1) not in versions[0]
