"""Section swap: publishes while the reader is under load, with every answer of a second client checked."""

import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from _store import rows, servers
from _store.lake import TABLE, Curtain, Lake
from _store.load import Target, run_load
from _store.processes import free_port
from _store.progress import say
from _store.publish_job import publish_in_child
from _store.sizes import Sizes
from _store.under_load import while_changing

NICENESS = 19
_CHECKS_PER_S = 50
_LAST_TAKES_S = 3.0


class Swaps:
    """The lake is written once: a night, and then one commit for each publish, hidden until its time comes."""

    def __init__(self, work: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.lake = Lake(work / f"swap-{sizes.http_keys}", sizes.http_keys)
        self._changed: list[np.ndarray] = []
        self._first_hidden = 0

    def measure(self, number: int) -> dict[str, Any]:
        sizes = self.sizes

        def closed_loop() -> dict[str, Any]:
            seconds, seed = sizes.swap_window_s, 10 * number + 1
            return asdict(run_load(target, "one", num_keys=sizes.http_keys, seconds=seconds, seed=seed))

        with self.served() as (target, base):
            run_load(target, "one", num_keys=sizes.http_keys, seconds=sizes.warm_s, seed=number)
            found: dict[str, Any] = {"keys": sizes.http_keys, "niceness": NICENESS, "window_s": sizes.swap_window_s}
            with Checker(target.port, self._changed, base, seed=number) as checker:
                found["before"] = self._quiet(target, number, "before")
                say(f"pass {number}: load with {sizes.swaps} publishes in {sizes.swap_window_s:g} s")
                found["during"], found["publishes"] = self.with_publishes(closed_loop, sizes.swaps, sizes.swap_window_s)
                found["after"] = self._quiet(target, number, "after")
        found["checked"] = checker.outcome()
        return found

    @contextlib.contextmanager
    def served(self) -> Iterator[tuple[Target, int]]:
        """A reader over the first night, whose later commits are hidden; yields the target and the version."""
        lake = self.lake
        self._prepare()
        Curtain(lake.uri, self._first_hidden).hide()
        shutil.rmtree(lake.settings.store_path, ignore_errors=True)
        base = publish_in_child(lake.home, full=True)["version"]
        port = free_port()
        with servers.reader(lake.home)(port, None):
            yield Target(port, "get", f"/v1/{rows.NAME}/"), base

    def _prepare(self) -> None:
        if self._changed:
            return
        sizes, lake = self.sizes, self.lake
        say(f"swap: writing {sizes.http_keys:,} rows and {sizes.swaps} commits")
        lake.create()
        shutil.rmtree(Path(lake.uri).parent / f"{TABLE}-later-commits", ignore_errors=True)
        self._first_hidden = 1
        rng = np.random.default_rng(0)
        for _ in range(sizes.swaps):
            self._changed.append(lake.rescore(int(sizes.http_keys * sizes.changed_share), rng))

    def _quiet(self, target: Target, number: int, when: str) -> dict[str, Any]:
        say(f"pass {number}: load without publishes, {when}")
        seconds, num_keys = self.sizes.quiet_window_s, self.sizes.http_keys
        return asdict(run_load(target, "one", num_keys=num_keys, seconds=seconds, seed=10 * number))

    def with_publishes(
        self, load: Callable[[], dict[str, Any]], count: int, window_s: float
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What `load` finds in `window_s` seconds in which `count` publishes begin and end; and the publishes."""
        # All of them end within the load, the last included.
        every_s = (window_s - _LAST_TAKES_S) / count
        arguments = [self.lake.home, self._first_hidden, count, every_s, NICENESS]
        return while_changing("_store.swap_job", arguments, load)


class Checker(AbstractContextManager["Checker"]):
    """A client beside the load that asks for changed keys and compares each answer with its version's content."""

    def __init__(self, port: int, changed: list[np.ndarray], base_version: int, *, seed: int) -> None:
        self._port, self._changed, self._base = port, changed, base_version
        self._rng = np.random.default_rng(seed)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers = 0
        self.wrong: list[str] = []
        self.seen: dict[int, float] = {}

    def __enter__(self) -> "Checker":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._done.wait(1 / _CHECKS_PER_S):
            group = self._changed[int(self._rng.integers(len(self._changed)))]
            index = int(group[int(self._rng.integers(len(group)))])
            try:
                connection.request("GET", f"/v1/{rows.NAME}/{rows.key_text(index)}")
                answer = connection.getresponse()
                self._compare(index, answer.status, json.loads(answer.read()))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
                connection.close()
        connection.close()

    def _compare(self, index: int, status: int, body: dict[str, Any]) -> None:
        self.answers += 1
        version = body.get("store_version", -1)
        self.seen.setdefault(version, time.time())
        stamp = sum(index in group for group in map(_Sorted, self._changed[: max(version - self._base, 0)]))
        if status != 200 or body["value"] != rows.expected(index, stamp):
            self.wrong.append(f"key {index}, status {status}, version {version}: {body}")

    def outcome(self) -> dict[str, Any]:
        return {
            "answers": self.answers,
            "wrong": len(self.wrong),
            "first_wrong": self.wrong[:3],
            "versions_seen": len(self.seen),
            "seen_at": {str(version): moment for version, moment in sorted(self.seen.items())},
        }


class _Sorted:
    """Membership in a sorted array."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __contains__(self, item: object) -> bool:
        place = int(np.searchsorted(self._values, item))
        return place < len(self._values) and bool(self._values[place] == item)
