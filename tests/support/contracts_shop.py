"""A project whose view changes while models of both of its contracts answer; and what they have to answer."""

import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dying import dies_at
from warm import start, start_with_trainers

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import WorkNeeded, contract_step, only_look, publish_step
from forecache.base.table_names import split_kept_name
from forecache.kit.delta.tables import table_names

if TYPE_CHECKING:
    from forecache.night import Trains

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(12)]
CUSTOMERS = 40
FACTORS = {"old": 1.0, "new": 2.5}
"""What the two definitions of the view multiply amounts with, in a helper of the module of the view."""

_RATES = "FACTOR = {factor}\n"
_VIEWS = """
from datetime import date

from forecache import Column, Feature, Features, FeatureView, Publish, Source, Window
from shop import rates

SALES = Source(
    name="sales",
    columns=(Column("customer", "bigint", required=True), Column("day", "date"), Column("amount", "double")),
    event_time="day",
    start=date(2026, 1, 1),
    end=date(2026, 1, 12),
)
RULES = Publish(max_age_h=10_000_000, max_psi=None, max_row_change=None, backend="{backend}")
habits = FeatureView(
    "habits",
    key=("customer",),
    sources=(SALES,),
    features=Features(
        columns=({columns}),
        sql=f"SELECT customer, as_of, {{rates.FACTOR}} * sum(amount) AS spent, count(*) AS visits{more} "
        "FROM sales GROUP BY customer, as_of",
    ),
    publish=RULES,
)
recent = FeatureView(
    "recent", key=("customer",), sources=(SALES,), windows=(Window("spent", "sum", {days}, "amount"),), publish=RULES
)
"""
_MODELS = """
import numpy as np

from forecache import Default, Feature, FunctionModel, Lookup, Realtime, RequestField, Rows
from shop.views import habits, recent


def features(rows: Rows) -> np.ndarray:
    looked_up = [rows.feature("habits", "spent"), rows.feature("habits", "visits"), rows.feature("recent", "spent")]
    return np.column_stack([*map(np.nan_to_num, looked_up), rows["factor"]])


def score(features):
    return (features["spent"] * 8 + features["visits"] + features["lately"]) * features["factor"]


def model(name: str) -> Realtime:
    return Realtime(
        name=name,
        request=(RequestField("customer", "bigint"), RequestField("factor", "double")),
        lookups=(Lookup(habits), Lookup(recent)),
        transform=features,
        features=(Feature("spent"), Feature("visits"), Feature("lately"), Feature("factor")),
        model=FunctionModel(score),
        output="score",
        deadline_ms=60_000.0,
        fallbacks=(Default(-1.0),),
    )


first, second = model("first"), model("second")
"""


_ON_SPARK = """
of_sql = habits


def scaled(amount):
    from shop import rates  # in Spark's workers

    return amount * rates.FACTOR


def compute(rows):
    from pyspark.sql import functions as F

    sales = rows["sales"].withColumn("scaled", F.udf(scaled, "double")("amount"))
    found = sales.groupBy("customer", "as_of")
    return found.agg(F.sum("scaled").alias("spent"), F.count("*").alias("visits"), F.max("amount").alias("most"))


habits = FeatureView(
    "habits", key=("customer",), sources=(SALES,), features=Features(of_sql.features.columns, compute), publish=RULES
)
"""


def write_project(folder: Path, definition: str, *, on_spark: bool = False, backend: str = "lmdb") -> None:
    """Write the project with the view's old or new definition: another rate, a new column, a longer window."""
    is_new = definition == "new"
    columns = 'Feature("spent"), Feature("visits", type="integer"),' + (' Feature("most"),' if is_new else "")
    files = {
        "shop/__init__.py": "",
        "shop/pipelines/__init__.py": "",
        "shop/rates.py": _RATES.format(factor=FACTORS[definition]),
        "shop/views.py": _VIEWS.format(
            columns=columns, more=", max(amount) AS most" if is_new else "", days=_DAYS[definition], backend=backend
        ),
        "shop/pipelines/models.py": _MODELS,
    }
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if on_spark:
        views = folder / "shop/views.py"
        views.write_text(views.read_text() + _ON_SPARK)


_DAYS = {"old": 2, "new": 4}


def sales_of(day: date) -> list[tuple[int, float]]:
    """The sales of a day: customer, amount in quarters, so that sums of any order are equal."""
    rng = random.Random(day.toordinal())
    return [(customer, rng.randint(1, 400) / 4) for customer in range(CUSTOMERS) if rng.random() < 0.7]


def land(home: Path, days: Sequence[date]) -> None:
    folder = home / "landing" / "sales"
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        rows = [f"{customer},{day},{amount}" for customer, amount in sales_of(day)]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")


def true_features(definition: str, view: str, customer: int, night: date) -> dict[str, float] | None:
    """The features of a customer by a definition of a view as of a date, from the sales; None: there is no row."""
    days = _DAYS[definition] if view == "recent" else len(DAYS)
    since = night - timedelta(days=days - 1)
    amounts = [amount for day in DAYS if since <= day <= night for who, amount in sales_of(day) if who == customer]
    if not amounts:
        return None
    if view == "recent":
        return {"spent": sum(amounts)}
    return {"spent": FACTORS[definition] * sum(amounts), "visits": len(amounts), "most": max(amounts)}


@cache
def true_base(definition: str, customer: int, habits: date, recent: date) -> float:
    """What a model answers for the factor 1 by definitions of views as of two dates."""
    habit = true_features(definition, "habits", customer, habits) or {"spent": 0.0, "visits": 0}
    lately = true_features(definition, "recent", customer, recent) or {"spent": 0.0}
    return habit["spent"] * 8 + habit["visits"] + lately["spent"]


def kept(settings: Settings) -> list[str]:
    """The names of kept contracts with a store or tables here."""
    stores = [path.name for path in settings.store_path.iterdir()]
    tables = [name.split("_", 1)[1] for name in table_names(settings) if name.startswith(("features_", "tiles_"))]
    return sorted({name for name in (*stores, *tables) if split_kept_name(name)})


def environment_of(settings: Settings, folder: Path) -> dict[str, str]:
    """The environment of a process with the project of a folder."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
        "FORECACHE_LAKE": settings.lake_uri,
        "FORECACHE_LANDING": settings.landing_uri,
        "FORECACHE_STORE_REMOTE": settings.store_remote,
        "FORECACHE_REDIS_URL": settings.redis_url,
        "FORECACHE_KEPT_CONTRACT_DAYS": str(settings.kept_contract_days),
    }


def run_nightly(
    settings: Settings,
    folder: Path,
    night: date,
    *models: str,
    kill: str = "",
    trains: "Trains" = "due",
    looks: bool = True,
) -> dict[str, Any]:
    """Run a night in a process of its own, with the project of a folder, after a look; one killed after a named step
    returns {}."""
    given = environment_of(settings, folder)
    ours, theirs = get_context("fork").Pipe()
    begin = start if kill else start_with_trainers
    process = begin(_run, settings.home_path, folder, given, night, models, kill, trains, looks, theirs)
    theirs.close()
    try:
        told: dict[str, Any] = ours.recv()
    except EOFError:
        told = {}
    process.join(300)
    assert process.exitcode == (-signal.SIGKILL if kill else 0)
    return told


def _run(
    home: Path,
    folder: Path,
    given: dict[str, str],
    night: date,
    models: Sequence[str],
    kill: str,
    trains: "Trains",
    looks: bool,
    answer: Connection,
) -> None:
    os.environ.clear()  # also of what the process had that this one is a fork of
    os.environ.update(given)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    from forecache.declare.loading import load_nightly
    from forecache.lake.quality.pending_files import ProcessRun
    from forecache.night import run_declaration

    steps, _, step = kill.partition(":")
    if kill:
        {"contract": contract_step, "publish": publish_step}[steps].on_step = dies_at(step)
    settings = load_settings(home=home, project="shop")
    said: list[str] = []
    run = ProcessRun(settings, lambda message, share=None: said.append(message))

    def run_models() -> None:
        for name in models:
            run_declaration(run, load_nightly(settings, name), [night], trains=trains)

    with only_look() as has_work, suppress(WorkNeeded):
        if looks:
            run_models()
    run.results.clear()
    run_models()
    answer.send({"objections": run.objections, "said": said, "had_work": has_work()})
