"""The interactions of the shelf project in a lake, the lists that plain numpy gives for them, and runs to kill."""

import csv
import json
import os
import shutil
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shelf_project
from deltalake import DeltaTable
from shelf_project.pipelines.shelf import PURCHASES, offers

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAST = shelf_project.LAST


def ingested(spark: "SparkSession", home: Path) -> Settings:
    """A home with all purchases ingested."""
    from forecache.lake.ingest.ingest import ingest

    settings = load_settings(home=home, project="shelf_project", code_version="fixed")
    shelf_project.land(landing_of(settings))
    ingest(settings, PURCHASES)
    return settings


def copy_of(settings: Settings, home: Path) -> Settings:
    shutil.copytree(settings.home_path, home)
    return load_settings(home=home, project="shelf_project", code_version="fixed")


def landing_of(settings: Settings) -> Path:
    return Path(settings.landing_uri.removeprefix("file://"))


def purchases(settings: Settings, upto: date) -> list[dict[str, str]]:
    """The rows of the landing files themselves."""
    files = sorted((landing_of(settings) / PURCHASES.name).glob("*.csv"))
    return [row for file in files for row in csv.DictReader(file.open()) if row["day"] <= upto.isoformat()]


def lists_by_hand(settings: Settings, upto: date, *, l2: float = 20.0, k: int = 10) -> dict[str, list[str]]:
    """EASE (Steck 2019) written out: the best articles not bought yet, at most six of a shelf, by customer."""
    rows = purchases(settings, upto)
    customers = sorted({row["customer"] for row in rows})
    articles = sorted({row["article"] for row in rows})
    x = np.zeros((len(customers), len(articles)))
    for row in rows:
        x[customers.index(row["customer"]), articles.index(row["article"])] += float(row["quantity"])
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(len(articles)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores = x @ weights
    lists = {}
    for customer, own, bought in zip(customers, scores, x > 0, strict=True):
        taken: dict[str, int] = defaultdict(int)
        chosen: list[str] = []
        for item in np.argsort(-own, kind="stable"):
            shelf = shelf_project.shelf_of(articles[item])
            if not bought[item] and taken[shelf] < 6 and len(chosen) < k:
                taken[shelf] += 1
                chosen.append(articles[item])
        lists[customer] = chosen
    return lists


def similar_by_hand(settings: Settings, upto: date, *, l2: float = 20.0, k: int = 5) -> dict[str, dict[str, int]]:
    """By article, the articles that it adds most to by EASE, at most k, and how many customers bought both."""
    rows = purchases(settings, upto)
    customers = sorted({row["customer"] for row in rows})
    articles = sorted({row["article"] for row in rows})
    x = np.zeros((len(customers), len(articles)))
    for row in rows:
        x[customers.index(row["customer"]), articles.index(row["article"])] += float(row["quantity"])
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(len(articles)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, -np.inf)
    both = (x > 0).T.astype(int) @ (x > 0).astype(int)
    lists = {}
    for number, article in enumerate(articles):
        best = [item for item in np.argsort(-weights[number], kind="stable")[:k] if weights[number, item] > 0]
        lists[article] = {articles[item]: int(both[number, item]) for item in best}
    return lists


def rows_of(settings: Settings, table: str = offers.prediction_table) -> list[dict[str, Any]]:
    return DeltaTable(settings.table_uri(table)).to_pyarrow_table().to_pylist()


def recommend_until(home: Path, step: str, number: int, told: Any) -> None:
    """Recommend for the last day, and be killed right after a step was done so often.

    "" goes to the end and tells what was built.
    """
    from forecache.plugins.recommend.stage import recommend

    times = 0

    def die(name: str) -> None:
        nonlocal times
        times += name == step
        if name == step and times == number:
            told.send(name)
            os.kill(os.getpid(), 9)

    lake_step.on_step = die
    result = recommend(load_settings(home=home, project="shelf_project", code_version="fixed"), offers, [LAST])
    told.send(json.dumps(result.details["built"]))
