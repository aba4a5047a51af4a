"""The homes of the sections, and what belongs to their streams in them."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from _common import machine
from _store.processes import PYTHON, BenchmarkError, run_checked
from _store.progress import say
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from _stream.services import environment_of
from _stream.supervised import Service
from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.dataset import open_dataset
from forecache.stream.state import read_state

SCORED, FOLLOWED = "scored", "followed"
"""The stream of every payment's score, and of every customer's row."""
TOPIC, PARTITIONS = "payments", 4
_BENCHMARKS = Path(__file__).resolve().parents[1]


def settings_of(folder: Path, project: str) -> Settings:
    return load_settings(home=folder, project=project)


def scored_home(folder: Path, *, customers: int, terminals: int, payments: int) -> Settings:
    """A home whose views of yesterday are published and whose model is released; made anew on another day or commit."""
    settings = settings_of(folder, "bench_scored")
    from _stream.prepare import last_night

    stamp, state = folder / "prepared", f"{last_night()} {customers} {terminals} {payments} {machine.commit()}"
    if not stamp.is_file() or stamp.read_text() != state:
        say(f"a night of {customers:,} customers and {terminals:,} terminals, from a week of payments")
        shutil.rmtree(folder, ignore_errors=True)
        numbers = map(str, (customers, terminals, payments))
        command = [PYTHON, "-m", "_stream.prepare", folder, *numbers]
        run_checked(command, cwd=_BENCHMARKS, log=folder / "prepare.log", environment=environment_of(settings, ""))
        stamp.write_text(state)
    forget_stream(settings, SCORED, "customer", "terminal")
    return settings


def forget_stream(settings: Settings, stream: str, *stores: str) -> None:
    """Remove a stream's tables and state, and the live layers of these stores."""
    shutil.rmtree(settings.home_path / "streams", ignore_errors=True)
    for table in (f"stream_{stream}", f"stream_quarantine_{stream}"):
        shutil.rmtree(settings.table_uri(table), ignore_errors=True)
    shutil.rmtree(settings.store_path / stream, ignore_errors=True)
    for store in stores:
        shutil.rmtree(settings.store_path / store / "live", ignore_errors=True)
        (settings.store_path / store / "LIVE").unlink(missing_ok=True)


def rows_of(settings: Settings, table: str, columns: list[str]) -> pa.Table:
    """Columns of a table of the lake at its newest version; None of its rows where there is none yet."""
    try:
        dataset: ds.Dataset = open_dataset(DeltaTable(settings.table_uri(table)))
    except TableNotFoundError:
        return pa.table({name: pa.array([], pa.int64()) for name in columns})
    return dataset.to_table(columns=columns)


def count_rows(settings: Settings, table: str) -> int:
    try:
        return int(open_dataset(DeltaTable(settings.table_uri(table))).count_rows())
    except TableNotFoundError:
        return 0


def state_of(settings: Settings, stream: str) -> Any:
    """What the engine says of itself, None: nothing yet."""
    with contextlib.suppress(OSError, ValueError):
        return read_state(settings, stream)
    return None


def wait_for(
    what: str, is_so: Callable[[], bool], *, seconds: float, every_s: float = 0.25, services: Iterable[Service] = ()
) -> float:
    """Wait until something is so; how long that took, in seconds.

    Raises:
        BenchmarkError: It is not in time, or one of the services has ended by itself again and again.
    """
    began = time.monotonic()
    while not is_so():
        for service in services:
            service.check()
        if time.monotonic() - began > seconds:
            raise BenchmarkError(f"{what} took longer than {seconds:g} s")
        time.sleep(every_s)
    return time.monotonic() - began
