"""The largest changes between two versions of a prediction table are explained by the rows of each version."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Schema

from forecache.base.settings import Settings, load_settings
from forecache.declare.loading import load_pipeline
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import commit_partitions
from forecache.kit.delta.writers import write_rows
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.diff import explained_changes
from forecache.plugins.diff.compare_partitions import compare_partitions
from forecache.plugins.diff.compared_tables import Side
from forecache.plugins.diff.partition import Partition

DAY, TABLE = date(2026, 1, 9), "predictions_spend"


def write(settings: Settings, table: str, **columns: Any) -> int:
    rows = pa.table({"customer": [1], "as_of": [DAY], **{name: [value] for name, value in columns.items()}})
    seen = take_snapshot(settings, table, "as_of")
    written = Schema.from_arrow(rows.schema), write_rows(rows, settings, table, partition_by=["as_of"])
    return commit_partitions(written, settings, table, column="as_of", values=[DAY], seen=seen).version


def score(settings: Settings, features: str, model: int, answer: float) -> int:
    """Write a version of the predictions, which were made from a table of features; returns its number."""
    made_of = write(settings, features, purchases=float(model))
    version = write(settings, TABLE, next_spend=answer, model_version=model, feature_version=made_of)
    details = {"feature_table": features, "feature_version": made_of}
    append_records(settings, [StageRecord("score", "spend", DAY, f"{model}", TABLE, version, 1, 1.0, details)])
    return version


def test_each_version_is_explained_by_its_own_model_and_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings("", home=tmp_path, project="windowed_project")
    pipeline, asked = load_pipeline(settings, "spend"), list[tuple[Any, ...]]()
    versions = (score(settings, "features_old", 3, 0.25), score(settings, "features_spend", 4, 0.75))
    score(settings, "features_spend", 5, 0.5)

    def explain(_: Settings, __: Any, model: int, table: str, version: int, night: date, row: dict[str, Any]) -> Any:
        asked.append((model, table, version, row["purchases"]))
        return {"base": 0.0, "features": []}

    monkeypatch.setattr(explained_changes, "load_hook", lambda *_: explain)
    sides = [Partition(settings, TABLE, DAY, version) for version in versions]
    rows = compare_partitions(sides[0], sides[1], pipeline.key, answers=("next_spend",))
    of_both = Side(settings, DAY)
    [found] = explained_changes.explain_changes(of_both, of_both, pipeline, rows, versions)
    assert (found["before"], found["after"], found["missing"]) == (0.25, 0.75, "")
    assert asked == [(3, "features_old", 0, 3.0), (4, "features_spend", 0, 4.0)]
