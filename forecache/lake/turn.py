"""The lock that lets one run at a time write a table from one machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.files import lock
from forecache.results import Progress
from forecache.settings import Settings


@contextmanager
def own_turn(settings: Settings, table: str, run_id: str, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on the table for this machine; the kernel releases it when the process dies.

    A second run waits, and then usually finds nothing left to do. Runs on other machines do not wait: between these the
    commit decides, see `forecache.lake.delta.partitions`.
    """

    def waiting(holder: str) -> None:
        progress(f"waiting for {holder}, which writes {table}", None)

    run = f" (run {run_id})" if run_id else ""
    with lock(settings.home_path / "locks" / table, holder=f"process {os.getpid()}{run}", waiting=waiting):
        yield
