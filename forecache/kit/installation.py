"""Small files and locks that all machines of an installation share besides its tables; both are in the lake."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forecache.base.errors import ConflictError
from forecache.base.files import lock
from forecache.base.folders import Folder, open_folder
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.kit.lease import Lease, hold_lease, local_lease

_PATIENCE_S = 10.0
"""A renewal of a lease that takes longer has failed; the next one may reach the object store."""


def open_lake(settings: Settings, *, below: str = "", patience_s: float | None = None) -> Folder:
    """The lake, or a folder in it, as a folder of files."""
    uri = f"{settings.lake_uri}/{below}" if below else settings.lake_uri
    return open_folder(uri, settings.storage_options, setting="FORECACHE_LAKE", patience_s=patience_s)


def open_state(settings: Settings, *, patience_s: float | None = None) -> Folder:
    """The folder `.state` of the lake, for small files that are swapped: what was done, and what was sent."""
    return open_lake(settings, below=".state", patience_s=patience_s)


@contextmanager
def hold_exclusively(
    settings: Settings,
    name: str,
    *,
    action: str,
    run_id: str = "",
    wait_s: float | None = None,
    report: Callable[[str], None] = lambda holder: None,
) -> Iterator[Lease]:
    """Hold the lock `name` of the installation during the block.

    Processes of this machine contend for a file lock in the home, which the kernel frees when its holder dies; if the
    lake is in a bucket, the one that has it then contends with other machines for a lease in the lake. `report` is
    called with the holder, as text, if there is one to wait for.

    Raises:
        ConflictError: Another process still holds it after `wait_s` (None: no limit).
        UnreachableError: The lake cannot be reached.
    """

    def refuse(holder: str) -> ConflictError:
        return ConflictError(f"{name!r} is being held by {holder}.", remedy="Wait for it, and run again.")

    begin_work(f"what needs the lock {name!r}: {action}")
    run = f", run {run_id}" if run_id else ""
    with lock(
        settings.home_path / "locks" / name,
        holder=f"process {os.getpid()} ({action}{run})",
        waiting=report,
        refused=None if wait_s is None else refuse,
        wait_s=wait_s or 0.0,
    ):
        if not settings.lake_is_remote:
            yield local_lease(name, action)
            return
        lake = open_lake(settings, patience_s=_PATIENCE_S)
        with hold_lease(lake, name, action=action, run_id=run_id, wait_s=wait_s, report=report) as lease:
            yield lease
