"""An ingestion as a process of its own runs it: at a clock time, without the machine's lock, or until it is killed."""

import os
import signal
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, Source
from forecache.lake.ingest import ingest as module

ORDERS = Source(
    "orders",
    columns=(Column("order_id", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    unique=("order_id",),
    start=date(2026, 1, 1),
)
STEPS = ("commit_raw", "commit_quarantine", "record_files")


def settings_of(home: Path | str) -> Settings:
    return load_settings(home=home, spark_master="local[1]", spark_driver_memory="1g")


def warm_up(spark: Any, home: str) -> None:
    """Ingest a file, so that the JVM has done it once."""
    folder = Path(settings_of(home).landing_uri) / ORDERS.name
    folder.mkdir(parents=True)
    (folder / "2026-01-01.csv").write_text("order_id,day,amount\na,2026-01-01,1\nb,2026-01-01,-1\n")
    module.ingest(settings_of(home), ORDERS)


def ingest_at(
    spark: Any, home: str, start_at: float = 0.0, kill_after: str = "", unlocked: bool = False
) -> dict[str, Any]:
    """Ingest, and say how many files or what was wrong.

    Args:
        start_at: A clock time.
        kill_after: A step after which the process kills itself.
        unlocked: Without the lock of the machine, as between two machines.
    """
    for step in STEPS:
        setattr(module, step, _killed_after(getattr(module, step), is_last=step == kill_after))
    if unlocked:
        module.hold_table_lock = lambda *_: nullcontext()  # type: ignore[assignment]
    time.sleep(max(0.0, start_at - time.time()))
    try:
        return {"files": module.ingest(settings_of(home), ORDERS).details["files"]}
    except ForecacheError as error:
        return {"error": type(error).__name__, "text": str(error)}


def _killed_after(call: Any, *, is_last: bool) -> Any:
    def called(*arguments: Any, **named: Any) -> Any:
        result = call(*arguments, **named)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called
