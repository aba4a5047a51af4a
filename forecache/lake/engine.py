"""Engines: what carries out a stage, Spark or Arrow in this process, and which of the two does.

Both write the same rows. Arrow needs neither Java nor pyspark; it cannot call functions that are declared on Spark's
frames.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from forecache.base.errors import SettingsError, UnavailableError
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView
from forecache.kit.process.usage import note_remote_work
from forecache.lake.contracts import function_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EngineName = Literal["spark", "arrow"]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Engine:
    """Spark or Arrow, whichever carries out a stage, and the reason for it."""

    settings: Settings
    name: EngineName
    reason: str = ""

    def session(self) -> "SparkSession":
        """The process's Spark session, started at the first call."""
        from forecache.kit.spark.session import spark_session

        if not self.settings.spark_master.startswith("local"):
            note_remote_work()
        return spark_session(self.settings)

    @property
    def num_cores(self) -> int:
        """Cores that carry out tasks: those of Spark, or those that this process may use."""
        return self.session().sparkContext.defaultParallelism if self.name == "spark" else num_cores()

    def report(self, details: dict[str, Any], progress: Progress, *, about: str) -> None:
        """Tell which engine carries out a stage, and why, to who watches the run and in the details of its record."""
        details.update(self.describe())
        progress(f"{about} by the engine {self.name}: {self.reason}", None)

    def describe(self) -> dict[str, str]:
        """Details for the stage's record."""
        return {"engine": self.name, "engine_reason": self.reason}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The results of a function for items, in their order, in a thread for each core; the first error stops the rest.

    For functions that work in numpy and Arrow, which release Python's lock.
    """
    threads = ThreadPoolExecutor(min(num_cores(), max(1, len(items))), thread_name_prefix="forecache-tasks")
    try:
        return list(threads.map(function, items))
    finally:
        threads.shutdown(cancel_futures=True)


def decide_engine(
    settings: Settings,
    *,
    needs_spark: Sequence[str] = (),
    rows: int = 0,
    is_serial: bool = False,
    engine: EngineName | None = None,
) -> Engine:
    """Decide which engine carries out a stage.

    Args:
        needs_spark: What the stage does with Spark's frames, as `find_spark_functions` names it.
        rows: Number of rows that it reads.
        is_serial: Arrow would carry it out in one thread, and Spark in one for each core.
        engine: The engine to take; None: that of FORECACHE_ENGINE.

    Raises:
        SettingsError: Arrow is asked for, and the stage needs Spark.
        UnavailableError: Spark is needed and not installed.
    """
    wanted = engine or settings.engine
    if wanted == "arrow" and needs_spark:
        raise SettingsError(
            f"The engine 'arrow' is asked for, and {needs_spark[0]} needs Spark.",
            remedy="Set FORECACHE_ENGINE=auto, or declare windows or SQL instead.",
        )
    is_installed = importlib.util.find_spec("pyspark") is not None
    if not is_installed and (needs_spark or wanted == "spark"):
        need = needs_spark[0] if needs_spark else "FORECACHE_ENGINE=spark"
        raise UnavailableError(
            f"pyspark is not installed here, and {need} needs it.",
            remedy="Install the extra 'spark': pip install 'forecache[spark]'.",
        )
    if wanted != "auto":
        return Engine(settings, wanted, "it is asked for")
    if needs_spark:
        return Engine(settings, "spark", f"{needs_spark[0]} needs it")
    has_more_cores = is_serial or not settings.spark_master.startswith("local")
    if rows > settings.arrow_most_rows and is_installed and has_more_cores:
        return Engine(settings, "spark", f"{rows:,} rows are more than {settings.arrow_most_rows:,}")
    read = f" for {rows:,} rows" if rows else ""  # those of existing tables are not counted
    return Engine(settings, "arrow", f"nothing needs Spark{read}")


def find_spark_functions(views: Iterable[FeatureView], *functions: Any) -> list[str]:
    """The functions that need Spark's frames: those of features of views, and further ones, if not None.

    Features without a function, which are columns of a source as they are, need them too.
    """
    own = [(view, view.features) for view in views if view.features is not None and not view.features.sql]
    named = [_describe(each.compute) if each.compute else f"the source of {view.name!r}" for view, each in own]
    return named + [_describe(each) for each in functions if each is not None]


def _describe(function: Any) -> str:
    return f"the function {function_name(function)}"
