"""A project whose pipelines' features change after a model was trained on them, and what its models have to predict."""

import json
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts_shop import CUSTOMERS, FACTORS, environment_of, sales_of
from deltalake import DeltaTable

from forecache.base.settings import Settings
from forecache.kit.delta.tables import table_names
from forecache.lake.kept_definitions import list_contracts
from forecache.models.tracking.artifacts import download_artifact

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(20)]
WINDOWS = {"old": 2, "new": 4}
NAMES = {
    ("spend", "old"): ["spent", "visits"],
    ("spend", "new"): ["spent", "visits", "most"],
    ("both", "old"): ["spent", "visits", "lately", "least"],
    ("both", "new"): ["spent", "visits", "most", "lately", "least"],
}
"""The features of each pipeline by each definition, in their order."""

_PIPELINES = """
from datetime import date

from forecache import (
    Baseline, Column, Drift, EstimatorModel, Feature, Features, FeatureView, Gate, Label, Output, Pipeline, Publish,
    Schedule, Source, Training, Window,
)
from shop import rates

SALES = Source(
    name="sales",
    columns=(Column("customer", "bigint", required=True), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 20),
)
HABITS = Features(
    columns=({columns}),
    sql=f"SELECT customer, as_of, {{rates.FACTOR}} * sum(amount) AS spent, count(*) AS visits{more} "
    "FROM sales GROUP BY customer, as_of",
)
habits = FeatureView("habits", key=("customer",), sources=(SALES,), features=HABITS)
recent = FeatureView(
    "recent", key=("customer",), sources=(SALES,), windows=(Window("lately", "sum", {days}, "amount"),)
)
steady = FeatureView(
    "steady",
    key=("customer",),
    sources=(SALES,),
    features=Features(
        columns=(Feature("least"),),
        sql="SELECT customer, as_of, min(amount) AS least FROM sales GROUP BY customer, as_of",
    ),
)


def boosting():
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=20, num_leaves=7, min_child_samples=5, verbose=-1)


def pipeline(name, features, sources=()):
    return Pipeline(
        name=name,
        key=("customer",),
        features=features,
        sources=sources,
        label=Label(
            name="next",
            kind="regression",
            horizon_days=1,
            sql="SELECT customer, as_of, sum(amount) AS next FROM sales GROUP BY customer, as_of",
        ),
        model=EstimatorModel(build=boosting),
        training=Training(num_as_of=3, every_days=1),
        outputs=(Output("next_spend"),),
        gate=Gate(
            "mae",
            floors={{"mae": {floor}}},
            baseline=Baseline("{baseline}"),
            baseline_margin=-1e6,
            max_regression=1e6,
            max_slice_regression=1e6,
            max_latency_ms=1e6,
        ),
        schedule=Schedule(training="never"),
        publish=Publish(max_age_h=10_000_000, max_psi=None, max_row_change=None),
        drift=Drift(report_rows=100 if name == "spend" else 0),
        shadow=True,
    )


spend = pipeline("spend", HABITS, (SALES,))
both = pipeline("both", (habits, recent, steady))
"""


def write_project(folder: Path, definition: str, *, floor: float = 1e6) -> Path:
    """Write the project with the old or new features: another rate in a helper, a new column, a longer window."""
    is_new = definition == "new"
    files = {
        "shop/__init__.py": "",
        "shop/pipelines/__init__.py": "",
        "shop/rates.py": f"FACTOR = {FACTORS[definition]}\n",
        "shop/pipelines/spending.py": _PIPELINES.format(
            columns='Feature("spent"), Feature("visits", type="integer"),' + (' Feature("most"),' if is_new else ""),
            more=", max(amount) AS most" if is_new else "",
            days=WINDOWS[definition],
            floor=floor,
            baseline="most" if is_new else "spent",
        ),
    }
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


@cache
def true_features(definition: str, customer: int, night: date) -> dict[str, float] | None:
    """All features of a customer by a definition as of a date, from the sales; None: there is no row."""
    sales = [(day, amount) for day in DAYS if day <= night for who, amount in sales_of(day) if who == customer]
    if not sales:
        return None
    amounts, since = [amount for _, amount in sales], night - timedelta(days=WINDOWS[definition] - 1)
    lately = [amount for day, amount in sales if day >= since]
    return {
        "spent": FACTORS[definition] * sum(amounts),
        "visits": len(amounts),
        "most": max(amounts),
        "least": min(amounts),
        "lately": sum(lately) if lately else np.nan,
    }


def true_predictions(settings: Settings, name: str, definition: str, version: int, night: date) -> dict[int, float]:
    """What a version of a pipeline's model predicts for each customer from the features of a definition."""
    import mlflow

    known = {who: row for who in range(CUSTOMERS) if (row := true_features(definition, who, night))}
    matrix = np.float32([[row[each] for each in NAMES[name, definition]] for row in known.values()])
    folder = download_artifact(settings, artifact_uri=f"models:/{name}/{version}")
    return dict(zip(known, mlflow.lightgbm.load_model(str(folder)).predict(matrix).tolist(), strict=True))


def call(settings: Settings, folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command with the project of a folder; returns its JSON."""
    started = [sys.executable, "-c", "import sys; from forecache.cli.main import main; sys.exit(main())", *arguments]
    given = {"FORECACHE_HOME": str(settings.home_path), "FORECACHE_PROJECT": "shop"}
    environment = {**environment_of(settings, folder), **given}
    done = subprocess.run([*started, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def read_predictions(
    settings: Settings, name: str, night: date, *, challenger: bool = False
) -> tuple[set[int], dict[int, float]]:
    """The versions of the model, and the predictions by customer, of all rows of an as-of date."""
    table = DeltaTable(settings.table_uri(f"predictions_{name}{'_challenger' * challenger}"))
    rows = table.to_pyarrow_table(partitions=[("as_of", "=", night.isoformat())]).to_pylist()
    found = {row["customer"]: row["next_spend"] for row in rows}
    assert len(found) == len(rows)
    return {row["model_version"] for row in rows}, found


def check_predictions(
    settings: Settings,
    definition: str,
    version: int,
    night: date,
    *,
    names: tuple[str, ...] = ("spend", "both"),
    challenger: bool = False,
) -> None:
    """See that all rows of an as-of date are what a version predicts from the features of a definition alone."""
    for name in names:
        versions, found = read_predictions(settings, name, night, challenger=challenger)
        assert versions == {version}
        assert found == pytest.approx(true_predictions(settings, name, definition, version, night), rel=1e-9)


def list_kept(settings: Settings) -> dict[str, int]:
    """The number of tables of earlier features, by the name without contract, and of definitions by pipeline."""
    tables = [name.split("__")[0] for name in table_names(settings) if "__" in name]
    return dict(Counter([*tables, *(name for name, _ in list_contracts(settings, kind="features"))]))
