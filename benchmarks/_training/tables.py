"""Made-up training sets of any size as Delta tables: files of at most a million rows, 2 percent for validation."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from _training.project.pipelines.bench import LABEL, NAMES

_FILE_ROWS = 1_000_000


def write_table(folder: Path, rows: int) -> str:
    """Write a table of `rows` rows; beyond a million the same file content repeats. Returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    content = _content(min(rows, _FILE_ROWS))
    for start in range(0, rows, _FILE_ROWS):
        write_deltalake(str(folder), content.slice(0, min(_FILE_ROWS, rows - start)), mode="append")
    return str(folder)


def _content(rows: int) -> pa.Table:
    rng = np.random.default_rng(7)
    features = {name: rng.standard_normal(rows, dtype=np.float32) for name in NAMES}
    logit = features[NAMES[0]] - 0.5 * features[NAMES[1]]
    split = np.where(np.arange(rows) % 50 == 0, "validation", "train")
    return pa.table(
        {
            "key": np.arange(rows),
            "split": pa.array(split.tolist()),
            **features,
            LABEL: (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64),
        }
    )
