"""The memory of other processes, looked at from a thread while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def watching(look: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Call `look` again and again while the block runs; a process that ends meanwhile ends that look only."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            try:
                look()
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def high_water_bytes(pid: int) -> int:
    """The most memory that a process has ever held (VmHWM), 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def proportional_bytes(process: psutil.Process) -> int:
    """What a process holds now, pages that several map shared out among them (PSS), 0 where it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return 0
