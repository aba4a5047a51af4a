"""Section plain: reads of one key, by this commit and by the last one before real-time models, in alternating runs."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common.processes import cpu_s, reader_at
from _store.load import Target, run_load
from _store.processes import PYTHON, ROOT, SERVER_CORE, free_port, http_ready, run_checked, running
from _store.progress import say

from _realtime.sizes import Sizes

BEFORE = "a7fbd00"
"""The last commit without real-time models."""
SIDES = ("before", "after")
KEYS = 200_000
_PIPELINE = "churn"


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Requests per second and CPU seconds of the reader for each, in pairs; each pair has processes of its own."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    keys = KEYS if sizes.name != "tiny" else sizes.keys
    with before_tree(work / "before-tree") as tree:
        trees = {"before": tree, "after": ROOT}
        homes = {side: published(work / f"plain-{side}", place, keys) for side, place in trees.items()}
        for number in range(sizes.plain_rounds):
            say(f"plain reads: pair {number + 1} of {sizes.plain_rounds}")
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            with contextlib.ExitStack() as stack:
                ports = {side: stack.enter_context(reader(homes[side], trees[side])) for side in order}
                for side in order:
                    once(ports[side], keys, 1.0, number)
                for side in (*order, *order[::-1]):
                    found[side].append(once(ports[side], keys, sizes.plain_s, number))
    return {"before_commit": BEFORE, "keys": keys, "sides": found}


@contextlib.contextmanager
def before_tree(folder: Path) -> Iterator[Path]:
    """The earlier commit, checked out beside for the length of a block."""
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "worktree", "remove", "--force", str(folder)], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    run_checked([*git, "worktree", "add", "--detach", "--force", str(folder), BEFORE])
    try:
        yield folder
    finally:
        run_checked([*git, "worktree", "remove", "--force", str(folder)])


def published(home: Path, tree: Path, keys: int) -> Path:
    """A home that the code of a tree has written and published: the store's format is that code's."""
    shutil.rmtree(home, ignore_errors=True)
    make = f"from pathlib import Path; from _store.lake import Lake; Lake(Path({str(home)!r}), {keys}).create()"
    environment = {"PYTHONPATH": os.pathsep.join([str(tree / "benchmarks"), str(tree)])}
    run_checked([PYTHON, "-c", make], environment=environment, cwd=tree / "benchmarks")
    publish = [PYTHON, "-m", "_store.publish_job", home, "full"]
    run_checked(publish, environment=environment, cwd=tree / "benchmarks")
    return home


@contextlib.contextmanager
def reader(home: Path, tree: Path) -> Iterator[int]:
    """The reader of a tree over its home, held to one core; yields its port."""
    port = free_port()
    command = [PYTHON, "-m", "forecache.cli.main", "serve", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    with running(
        list(map(str, command)),
        log=home / "reader.log",
        ready=http_ready(f"http://127.0.0.1:{port}/readyz"),
        core=SERVER_CORE,
        environment={"FORECACHE_HOME": str(home), "PYTHONPATH": str(tree)},
        cwd=tree,
    ):
        yield port


def once(port: int, keys: int, seconds: float, seed: int) -> dict[str, float]:
    """A closed-loop run: requests a second, and the reader's CPU microseconds for each request."""
    processes = reader_at(port)
    before = cpu_s(processes)
    seen = run_load(
        Target(port, "get", f"/v1/{_PIPELINE}/"), "one", num_keys=keys, seconds=seconds, seed=seed, one_core=True
    )
    used = cpu_s(processes) - before
    return {
        "requests_per_s": seen.requests_per_s, "cpu_us": used / seen.requests * 1e6, "p99_ms": seen.p99_ms,
        "failed": seen.failed,
    }  # fmt: skip
