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
from forecache.lake.contracts import function_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EngineName = Literal["spark", "arrow"]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Engine:
    """What carries out a stage, and why."""

    settings: Settings
    name: EngineName
    reason: str = ""

    def session(self) -> "SparkSession":
        """The process's Spark session, started at the first call."""
        from forecache.kit.spark.session import spark_session

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
    functions: Iterable[Any] = (),
    rows: int = 0,
    is_serial: bool = False,
    engine: EngineName | None = None,
) -> Engine:
    """Decide which engine carries out a stage.

    Args:
        functions: The functions on Spark's frames that the stage calls, as `spark_functions` finds them.
        rows: Number of rows that it reads.
        is_serial: Arrow would carry it out in one thread, and Spark in one for each core.
        engine: The engine to take; None: that of FORECACHE_ENGINE.

    Raises:
        SettingsError: Arrow is asked for, and the stage calls a function that needs Spark.
        UnavailableError: Spark is needed and not installed.
    """
    called, wanted = [function_name(function) for function in functions], engine or settings.engine
    if wanted == "arrow" and called:
        raise SettingsError(
            f"The engine 'arrow' cannot call {called[0]}, a function on Spark's frames.",
            remedy="Declare windows or SQL instead, or set FORECACHE_ENGINE=auto.",
        )
    is_installed = importlib.util.find_spec("pyspark") is not None
    if not is_installed and (called or wanted == "spark"):
        asks = f"{called[0]}, a function on Spark's frames," if called else "FORECACHE_ENGINE=spark"
        raise UnavailableError(
            f"pyspark is not installed here, and {asks} needs it.",
            remedy="Install the extra 'spark': pip install 'forecache[spark]'.",
        )
    if wanted != "auto":
        return Engine(settings, wanted, "it is asked for")
    if called:
        return Engine(settings, "spark", f"{called[0]} is a function on Spark's frames")
    if (
        rows > settings.arrow_most_rows
        and is_installed
        and (is_serial or not settings.spark_master.startswith("local"))
    ):
        return Engine(settings, "spark", f"{rows:,} rows are more than {settings.arrow_most_rows:,}")
    return Engine(settings, "arrow", f"{rows:,} rows, and no function on Spark's frames")


def spark_functions(views: Iterable[FeatureView], *more: Callable[..., Any] | None) -> list[Any]:
    """The functions on Spark's frames that features of views are computed by, and those of `more` that are not None."""
    own = [view.features for view in views if view.features is not None]
    return [features.compute or features for features in own] + [each for each in more if each is not None]
