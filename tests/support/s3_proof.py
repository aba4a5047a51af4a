"""The proof that commits on an object store are safe: writers at once, killed at random, behind a server that fails."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fault_proxy import Faults, fault_proxy
from s3_commits import KILLED, Writer, check, rows_expected
from store_services import minio_server

from forecache.base.settings import load_settings

Say = Callable[[str], None]


def prove(
    folder: Path,
    *,
    spark_commits: int,
    delta_commits: int,
    kills: dict[str, int],
    seed: int,
    limit_s: float,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Let two Spark drivers and two processes with delta-rs commit to one table through a proxy that injects faults.

    Args:
        spark_commits: Of each Spark driver.
        delta_commits: Of each process with delta-rs.
        kills: SIGKILLs in all by kind of writer, each after a random number of further commits.

    Returns:
        Figures: commits, rows, kills, errors that writers ended with, faults by kind of request, seconds.

    Raises:
        AssertionError: A commit was lost, is there twice, or differs from what its writer was told.
    """
    started, dice = time.perf_counter(), random.Random(seed)
    with ExitStack() as stack:
        options = stack.enter_context(minio_server(folder / "minio", "cloud"))
        # Of the commits more fail than of the rest, and most of these in the way that leaves the writer in doubt.
        faults = [
            Faults("commit", busy=0.04, reset=0.04, lost=0.12),
            Faults("end of upload", busy=0.01, reset=0.01, lost=0.02),
            Faults("other", busy=0.004, reset=0.003, lost=0.003),
        ]
        proxy = stack.enter_context(fault_proxy(options["AWS_ENDPOINT_URL"], *faults, seed=seed))
        spark = {"spark_master": "local[1]", "spark_driver_memory": "1g", "spark_jvm": "short"}
        given = {"lake": "s3://cloud/lake", **spark}
        direct = load_settings(home=folder / "home", storage_options=options, **given)
        options = {**options, "AWS_ENDPOINT_URL": proxy.address}
        counts = {
            "spark-1": spark_commits,
            "spark-2": spark_commits,
            "delta-1": delta_commits,
            "delta-2": delta_commits,
        }
        writers = [
            Writer(
                name,
                "spark" if name.startswith("spark") else "delta-rs",
                count,
                str(folder),
                {"home": str(folder / name), "storage_options": options, **given},
                read_after=str(folder / "read.now") if name == "spark-1" else "",
            )
            for name, count in counts.items()
            if count
        ]
        killed, gave_up = _run(folder, writers, kills, dice, limit_s=limit_s, say=say)
        figures = check(direct, writers)
        by_spark = (
            {}
            if not spark_commits
            else {(writer, number): count for writer, number, count in json.loads((folder / "read.json").read_text())}
        )
        assert not spark_commits or by_spark == rows_expected(writers), "Spark reads other rows"
        injected = {some.kind: proxy.injected(some.kind) for some in faults}
    return {
        **figures,
        "kills": dict(killed),
        "errors": dict(gave_up),
        "faults": injected,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _run(
    folder: Path, writers: list[Writer], kills: dict[str, int], dice: random.Random, *, limit_s: float, say: Say
) -> tuple[Counter[str], Counter[str]]:
    """Run the writers to their end, killing and starting them again on the way; kills and errors by kind."""
    give_up = time.monotonic() + limit_s
    killed, gave_up = Counter[str](), Counter[str]()
    with ExitStack() as stack:
        running = {writer: stack.enter_context(_Process(folder, writer)) for writer in writers}
        after = {writer: _progress(writer) + dice.randint(1, 5) for writer in writers}
        told = 0.0
        while any(_progress(writer) < writer.count for writer in writers):
            assert time.monotonic() < give_up, f"not done after {limit_s} s: {_progresses(writers)}"
            for writer, process in running.items():
                if process.ended_badly():  # which it may, where the server failed it too often
                    gave_up[writer.kind] += 1
                    assert gave_up[writer.kind] < writer.count / 10, process.log.read_text()[-3000:]
                    process.start()
                due = min(after[writer], writer.last_after_kills) <= _progress(writer) < writer.count - 1
                if due and killed[writer.kind] < kills.get(writer.kind, 0):
                    time.sleep(dice.uniform(0, 0.3))
                    process.kill()
                    killed[writer.kind] += 1
                    process.start()
                    left = writer.count - _progress(writer)
                    after[writer] = _progress(writer) + dice.randint(1, max(1, 2 * left // (kills[writer.kind] + 1)))
            if all(killed[kind] >= number for kind, number in kills.items()):
                (folder / KILLED).touch()
            if time.monotonic() > told + 10:
                told = time.monotonic()
                say(f"{_progresses(writers)}, {killed.total()} kills")
            time.sleep(0.05)
        (folder / "read.now").touch()
        for writer, process in running.items():
            assert process.wait(give_up) == 0, f"{writer.name} failed: {process.log.read_text()[-3000:]}"
    return killed, gave_up


def _progress(writer: Writer) -> int:
    return len(writer.said()[1])


def _progresses(writers: list[Writer]) -> str:
    return ", ".join(f"{writer.name} {_progress(writer)} of {writer.count}" for writer in writers)


class _Process:
    """A writer's process, which leads a group of its own so that its JVM goes with it."""

    def __init__(self, folder: Path, writer: Writer) -> None:
        self.log = folder / f"{writer.name}.out"
        self._writer = writer

    def __enter__(self) -> "_Process":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._writer.command(), stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def ended_badly(self) -> bool:
        return self._process.poll() not in (None, 0)

    def wait(self, give_up: float) -> int:
        return self._process.wait(max(1.0, give_up - time.monotonic()))
