"""Made-up training sets as Delta tables, written through delta-rs in the shape that the lake declares."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.models.training.spec import TrainingSpec

SPLIT_DATES = {
    "train": (date(2024, 4, 1), date(2024, 5, 1)),
    "validation": (date(2024, 6, 1),),
    "test": (date(2024, 7, 1),),
}


def sample_rows(pipeline: Pipeline, rows_per_date: int, *, seed: int = 0, signal: float = 1.0) -> pa.Table:
    """`rows_per_date` rows for each as-of date, shuffled over splits; a tenth of `gap` is null."""
    rng = np.random.default_rng(seed)
    dates = [(split, day) for split, days in SPLIT_DATES.items() for day in days]
    n = rows_per_date * len(dates)
    which = rng.permutation(np.arange(n) % len(dates))
    recency, amount = rng.exponential(30.0, n), rng.exponential(50.0, n)
    visits, gap, noise = rng.poisson(4.0, n).astype(float), rng.normal(size=n), rng.normal(size=n)
    logit = signal * (0.8 * visits - 1.2 * np.log1p(recency) + 0.7 * gap + 0.5)
    if pipeline.label.kind == "binary":
        label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    elif pipeline.label.kind == "multiclass":
        pull = np.column_stack([np.zeros(n), logit, 0.05 * amount - 2.0]) + rng.gumbel(size=(n, 3))
        label = np.array(["basic", "gold", "trial"])[pull.argmax(axis=1)]
    else:
        label = np.maximum(0.0, 0.3 * amount + 5.0 * visits + rng.normal(0, 2.0, n))
    gap[rng.random(n) < 0.1] = np.nan
    values = {"recency": recency, "amount": amount, "visits": visits, "gap": gap, "noise": noise}
    return pa.table(
        {
            "user_id": pa.array([f"u{i:07d}" for i in range(n)]),
            "as_of": pa.array([dates[i][1] for i in which], pa.date32()),
            "split": pa.array([dates[i][0] for i in which]),
            **{name: pa.array(column.astype(np.float32), from_pandas=True) for name, column in values.items()},
            pipeline.label.name: pa.array(label),
            **({pipeline.label.weight: pa.array(rng.integers(1, 4, n) / 2)} if pipeline.label.weight else {}),
        }
    )


def write_training_set(
    settings: Settings,
    pipeline: Pipeline,
    rows_per_date: int = 1500,
    *,
    files: int = 3,
    seed: int = 0,
    signal: float = 1.0,
) -> int:
    """Write (again) the training set of a pipeline in several files; returns its Delta version."""
    table = sample_rows(pipeline, rows_per_date, seed=seed, signal=signal)
    uri = settings.table_uri(pipeline.training_table)
    size = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * size, size)
        write_deltalake(uri, part, mode="append" if number else "overwrite", storage_options=settings.storage_options)
    return DeltaTable(uri, storage_options=settings.storage_options).version()


def sample_spec(
    settings: Settings, pipeline: Pipeline, folder: Path, rows_per_date: int, **fields: Any
) -> TrainingSpec:
    """Write a pipeline's training set and say how it is trained in a folder; `fields` are the other ones."""
    version = write_training_set(settings, pipeline, rows_per_date)
    return TrainingSpec(
        run_dir=str(folder),
        pipeline=pipeline.name,
        table_uri=settings.table_uri(pipeline.training_table),
        table_version=version,
        **fields,
    )
