"""Context of a scoring run: its arguments, the model's plan, cores, and scratch space for data larger than memory."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.files import process_folder
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.kit.delta.partitions import TableSnapshot
from forecache.lake.stage import Stage
from forecache.models.inference.kernel_spec import ScoringPlan
from forecache.models.registry.model_versions import ModelVersion
from forecache.scoring.tasks.prediction_rows import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


Engine = Literal["spark", "arrow"]
Details = Callable[[date], Mapping[str, Any]]
BATCH_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class ScoringRun:
    """A run that scores nights with one model into one table.

    Attributes:
        spark: None with the engine "arrow".
        table: The prediction table, or the challenger's.
        stage: The ledger's stage in which the nights are recorded.
        compared_with: The model that this one is compared with, as name@version: another one makes nights stale.
        details: Further details of a night's record, made when the night is committed.
    """

    spark: "SparkSession | None"
    settings: Settings
    pipeline: Pipeline
    model: ModelVersion
    table: str
    stage: str
    engine: Engine
    run_id: str
    progress: Progress
    compared_with: str = ""
    details: Details = lambda night: {}

    @property
    def ledger(self) -> Stage:
        """The stage of the ledger in which the nights are recorded."""
        return Stage(self.settings, self.stage, self.pipeline.name, self.run_id)


@dataclass(frozen=True, kw_only=True)
class ScoringWork(ScoringRun):
    """A run that has nights to score, with its model's plan and the state of the table at the start of the run."""

    plan: ScoringPlan
    stamp: Stamp
    seen: TableSnapshot
    batch_rows: int = BATCH_ROWS

    @property
    def cores(self) -> int:
        """Cores that the engine keeps busy."""
        if self.engine == "arrow":
            # A model in plain Python holds the interpreter, and may not expect two threads.
            return 1 if self.plan.spec.runtime == "pyfunc" else num_cores()
        assert self.spark is not None
        return self.spark.sparkContext.defaultParallelism


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scratch_folder(settings: Settings) -> Path:
    folder = settings.home_path / "scoring"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def scratch_database(settings: Settings) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into a folder of its own in the scratch folder.

    DuckDB before 2.0 gives its files the same names in every process, and two that share a folder crash.
    """
    import duckdb

    with process_folder(scratch_folder(settings), "duckdb-") as folder:
        config: dict[str, Any] = {"memory_limit": "512MB", "temp_directory": str(folder)}
        with duckdb.connect(":memory:", config=config) as connection:
            yield connection
