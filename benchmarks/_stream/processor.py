"""What the processes of a stream take of the processor while it runs: engine, tailer, reader and broker, each alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from forecache.kit.process.usage import tree_cpu_s

ENGINE, TAILER, READER, BROKER = "engine", "tailer", "reader", "broker"
PROCESSES = {
    ENGINE: "the engine",
    TAILER: "the tailer",
    READER: "the reader, which the benchmark's client asks all the time",
    BROKER: "the broker",
}


@dataclass(frozen=True)
class Look:
    """CPU seconds since the start of each process, with its children, and the process that it was."""

    pids: Mapping[str, int]
    seconds: Mapping[str, float]


def look(engine: int, reader: int, broker: int) -> Look:
    """What the processes have taken until now; the reader starts the tailer, which is counted alone.

    Args:
        engine: Id of the process, as the other two.

    Raises:
        psutil.NoSuchProcess: One of them has ended.
    """
    pids = {ENGINE: engine, READER: reader, BROKER: broker}
    if tailer := _tailer_of(reader):
        pids[TAILER] = tailer
    seconds = {name: tree_cpu_s(pid) for name, pid in pids.items()}
    seconds[READER] -= seconds.get(TAILER, 0.0)
    return Look(pids, seconds)


def used_s(before: Look, after: Look) -> dict[str, float | None]:
    """CPU seconds between two looks; None for a process that did not run all the time, so that it is not known."""
    lost = {name for name in PROCESSES if before.pids.get(name) != after.pids.get(name) or name not in before.pids}
    if TAILER in lost:  # then its time is partly in the reader's
        lost.add(READER)
    return {name: None if name in lost else after.seconds[name] - before.seconds[name] for name in PROCESSES}


def core_hours_a_million(run: Mapping[str, object], *names: str) -> float | None:
    """Core-hours that these processes took for a million events of a run, None: not measured."""
    used, events = run.get("processor_s"), run.get("events")
    if not isinstance(used, Mapping) or not isinstance(events, int) or not events:
        return None
    taken = [used.get(name) for name in names]
    known = [seconds for seconds in taken if seconds is not None]
    return sum(known) / events * 1e6 / 3600 if len(known) == len(names) else None


def _tailer_of(reader: int) -> int | None:
    for process in psutil.Process(reader).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if " stream tail" in " ".join(words):
            return process.pid
    return None
