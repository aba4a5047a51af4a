"""The settings of mlflow's Spark UDF: threads of the runtime, batch size, and how it takes the features; its best."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _scoring.data import network_for_mlflow, tree_model

if TYPE_CHECKING:
    from _scoring.job import Contenders

LAYOUTS, THREADS, BATCH_ROWS = ("columns", "array"), (0, 1), (10_000, 50_000)
TREE_THREADS = (1, 2)


@dataclass(frozen=True)
class Setting:
    """One way to run mlflow's UDF; `threads` of the runtime in each Python worker, 0: its default."""

    model: str
    layout: str
    threads: int
    batch_rows: int

    @property
    def name(self) -> str:
        return f"{self.layout}, {self.threads or 'default'} threads, batches of {self.batch_rows}"

    @classmethod
    def named(cls, name: str, home: Path, *, trees: bool) -> "Setting":
        return next(each for each in settings(home, trees=trees) if each.name == name)


def settings(home: Path, *, trees: bool) -> list[Setting]:
    if trees:
        return [
            Setting(tree_model(home, threads=threads), "columns", threads, batch)
            for threads in TREE_THREADS
            for batch in BATCH_ROWS
        ]
    return [
        Setting(network_for_mlflow(home, threads=threads, layout=layout), layout, threads, batch)
        for layout in LAYOUTS
        for threads in THREADS
        for batch in BATCH_ROWS
    ]


def try_settings(contenders: "Contenders", home: Path, *, trees: bool) -> dict[str, float]:
    """Seconds of mlflow's UDF at every setting, each in Python workers of its own that have run once before.

    A setting that mlflow refuses is told and left out.
    """
    seconds = {}
    contenders.copy()
    for setting in settings(home, trees=trees):
        contenders.peer = setting
        try:
            contenders.mlflow()
            started = time.perf_counter()
            contenders.mlflow()
            seconds[setting.name] = time.perf_counter() - started
        except Exception as error:  # noqa: BLE001  # a setting that cannot run is none to compare with
            print(f"mlflow, {setting.name}: {str(error)[:300]}", file=sys.stderr)
    return seconds
