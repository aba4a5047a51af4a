"""What one of several processes does that write the same table at once; a barrier lets them come at the same time."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.kit.delta.commit import Target
from forecache.kit.delta.partitions import replace_partitions, take_snapshot
from forecache.kit.delta.tables import append_rows
from forecache.kit.delta.writers import cast_to_delta_types, write_rows

DAY = date(2026, 1, 1)


def rows_of(process: int) -> pa.Table:
    count = 20
    return pa.table(
        {"key": [f"k{i}" for i in range(count)], "by": [process] * count, "as_of": pa.array([DAY] * count, pa.date32())}
    )


def replace_day(settings: Settings, name: str, process: int, inputs: str) -> str:
    """Replace a day as the features' builder does, with Arrow's rows in place of Spark's; says who was faster."""
    from deltalake import Schema

    seen, rows = take_snapshot(settings, name, "as_of"), cast_to_delta_types(rows_of(process))
    files = write_rows(rows, settings, name, partition_by=["as_of"])
    target = Target(settings, name, Schema.from_arrow(rows.schema), ("as_of",), change_feed=True)
    note = {"run_id": f"process {process}"}
    try:
        done = replace_partitions(
            target, files, column="as_of", values=[DAY], seen=seen, inputs={DAY: inputs}, note=note
        )
    except ConflictError as error:
        return str(error)
    return done.taken_over.get(DAY, "")


def write_at_once(home: Path, process: int, rounds: int, barrier: Any, told: Any) -> None:
    """In every round: replace a day of one table, first and later, and append to a new table."""
    settings = load_settings(home=home)
    waiting = False

    def meet(name: str) -> None:
        nonlocal waiting
        if waiting and name == "decided":
            waiting = False
            barrier.wait(120)

    lake_step.on_step = meet
    for number in range(rounds):
        said = []
        for inputs in (("same", "same"), ("again", "again"), ("mine 0", "mine 1")):
            barrier.wait(120)
            waiting = True
            said.append(replace_day(settings, f"days_{number}", process, inputs[process]))
        barrier.wait(120)
        waiting = True
        append_rows(settings, f"new_{number}", rows_of(process))
        told.send(said)
