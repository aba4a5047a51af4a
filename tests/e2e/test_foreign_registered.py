"""The second foreign pipeline: a registered scikit-learn model over an existing Delta table; neither is Forecache's."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from applied_sample import register
from deltalake import DeltaTable, write_deltalake

from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import last_record
from forecache.lake.query import query
from forecache.models.tracking.client import connect_mlflow
from jobs.runner import run

SUPPORT = Path(__file__).parent.parent / "support"
FIRST, SECOND = date(2026, 1, 10), date(2026, 1, 11)
NAMES = ["orders", "spent", "days_since_order"]


def customers(day: date, seed: int, rows: int = 500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "customer_id": np.arange(rows, dtype=np.int64),
            "day": day,
            "orders": rng.poisson(4, rows).astype(float),
            "spent": rng.gamma(2, 40, rows).round(2),
            "days_since_order": rng.integers(0, 200, rows).astype(float),
        }
    )


def model(folder: Path, *, after: float) -> Any:
    """A classifier, in its own library's pipeline, saved by MLflow with skops; returns the estimator."""
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = customers(FIRST, 7)[NAMES]
    estimator = make_pipeline(StandardScaler(), LogisticRegression())
    estimator.fit(frame, frame["days_since_order"] + 10 * frame["orders"] > after)
    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        signature=mlflow.models.infer_signature(frame, estimator.predict_proba(frame)),
        serialization_format="skops",
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
    )
    return estimator


@pytest.fixture
def here(tmp_path: Path, spark: object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("BORROWED_TABLE", str(tmp_path / "warehouse" / "customers"))
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "borrowed_project")
    return load_settings(spark_master="local[2]")


def scored(settings: Settings, night: date) -> np.ndarray:
    found = query(
        settings,
        f"select customer_id, churn_probability from predictions_borrowed where as_of = '{night}' order by customer_id",
    )
    assert found["customer_id"].to_pylist() == list(range(500))
    return found["churn_probability"].to_numpy()


def stages(results: list[StageResult]) -> dict[str, bool]:
    """Whether each stage was skipped."""
    return {result.stage: result.skipped for result in results}


@pytest.mark.slow
def test_a_registered_model_over_an_existing_table_is_applied_and_published(
    here: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "warehouse" / "customers")
    write_deltalake(table, customers(FIRST, 0), partition_by=["day"])
    estimator = model(tmp_path / "one", after=150)
    register(here, tmp_path / "one")

    def expected(day: date, seed: int) -> np.ndarray:
        return estimator.predict_proba(customers(day, seed)[NAMES])[:, 1]

    run(here, pipelines=["borrowed"], nights=(FIRST, FIRST))
    np.testing.assert_allclose(scored(here, FIRST), expected(FIRST, 0), rtol=1e-5)
    assert all(stages(run(here, pipelines=["borrowed"], nights=(FIRST, FIRST))).values())

    # Others go on writing: the next day's rows change nothing about the first, other rows of the first do.
    write_deltalake(table, customers(SECOND, 1), mode="append")
    assert stages(run(here, pipelines=["borrowed"], nights=(FIRST, FIRST)))["score"]
    run(here, pipelines=["borrowed"], nights=(SECOND, SECOND))
    np.testing.assert_allclose(scored(here, SECOND), expected(SECOND, 1), rtol=1e-5)
    write_deltalake(table, customers(FIRST, 2), mode="overwrite", predicate=f"day = '{FIRST}'")
    before = DeltaTable(table).version()
    run(here, pipelines=["borrowed"], nights=(FIRST, SECOND))
    np.testing.assert_allclose(scored(here, FIRST), expected(FIRST, 2), rtol=1e-5)

    # So does the owner of the model.
    estimator = model(tmp_path / "two", after=145)
    second = register(here, tmp_path / "two")
    assert not stages(run(here, pipelines=["borrowed"], nights=(SECOND, SECOND)))["score"]
    np.testing.assert_allclose(scored(here, SECOND), expected(SECOND, 1), rtol=1e-5)
    record = last_record(here, "score", "borrowed", SECOND)
    assert record is not None
    assert f"model=churn_model@{second} " in record.inputs

    capsys.readouterr()
    assert main(["get", "borrowed", "42", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["model"] == {"name": "churn_model", "version": second}
    assert got["value"]["churn_probability"] == pytest.approx(scored(here, SECOND)[42])
    assert main(["explain", "borrowed", "42"]) == 0
    assert "customers" in capsys.readouterr().out
    assert DeltaTable(table).version() == before
    assert len(connect_mlflow(here).search_model_versions("name='churn_model'")) == 2
