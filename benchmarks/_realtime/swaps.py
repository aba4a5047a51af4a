"""Section swap: publishes of features and swaps of the model under load; a second client compares its answers."""

import itertools
import os
import shutil
import threading
import urllib.error
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from _store.lake import Curtain
from _store.processes import OTHER_CORE, SERVER_CORE
from _store.progress import say
from _store.under_load import while_changing
from deltalake import DeltaTable

from _realtime import case, home, load, throughput
from _realtime.sizes import Sizes

RATE = {"tiny": 100.0, "full": 1_000.0}
CHANGED_SHARE = 0.01
NICENESS = 19
_LAST_TAKES_S = 4.0
_CHECKS_PER_S = 20


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Rounds of a run without changes, one of twice its length with publishes and swaps, and one without again."""
    models = work / "models"
    case.write_models(models)
    folder = work / "swap-home"
    shutil.rmtree(folder, ignore_errors=True)  # a run before has changed its features and its model
    settings = home.serving(folder, models, sizes.keys, (case.NETWORK,))
    say("swaps: writing the commits that are published later")
    rng = np.random.default_rng(8)
    table = settings.table_uri("features_product")
    first_hidden = DeltaTable(table).version() + 1
    changed = []
    for number in range(sizes.publishes * sizes.swap_rounds):
        ids = np.sort(rng.choice(sizes.keys, max(1, int(sizes.keys * CHANGED_SHARE)), replace=False))
        home.change(settings, "product", ids, number + 1)
        changed.append(ids)
    Curtain(table, first_hidden).hide()
    rate = RATE[sizes.name]
    bodies = [case.encoded(body) for body in case.bodies(throughput.REQUESTS, sizes.keys, seed=5)]
    path = f"/v1/{case.NETWORK}"
    requests = load.write_requests(work / "swap.requests", bodies, path)
    arguments: dict[str, Any] = {"rate": rate, "classes": throughput.CLASSES}
    quiet_s, rounds = sizes.swap_window_s / 2, []
    with home.reader(settings, case.NETWORK, core=SERVER_CORE) as port:
        load.run(port, requests, seconds=2.0, **arguments)
        with Checker(port, path, sizes.keys, changed, models) as checker:
            for number in range(sizes.swap_rounds):
                say(f"swaps: {rate:,.0f} requests/s, round {number + 1} of {sizes.swap_rounds}")
                before = load.run(port, requests, seconds=quiet_s, **arguments)
                during, changes = _with_changes(folder, models, sizes, first_hidden, number, port, requests, arguments)
                after = load.run(port, requests, seconds=quiet_s, **arguments)
                runs = {"before": _figures(before), "during": _figures(during), "after": _figures(after)}
                rounds.append({**runs, "changes": changes})
    return {"rate": rate, "niceness": NICENESS, "rounds": rounds, "checked": checker.outcome()}


def _figures(done: load.Load) -> dict[str, Any]:
    return {**done.figures(), "model_share": float(done.with_class(throughput.MODEL).mean())}


def _with_changes(
    folder: Path, models: Path, sizes: Sizes, first_hidden: int, number: int, port: int, requests: Path,
    arguments: dict[str, Any],
) -> tuple[load.Load, list[dict[str, Any]]]:  # fmt: skip
    """The load of a run in which a process of low priority publishes and releases at fixed times; what it did.

    That process runs on the core of the load generator, so that the reader's core shows what an opening costs there.
    """
    swapped, within_s = number * sizes.swaps, sizes.swap_window_s - _LAST_TAKES_S
    given = [folder, models, first_hidden, sizes.publishes, swapped, sizes.swaps, within_s, NICENESS, OTHER_CORE]
    return while_changing(
        "_realtime.swap_job",
        given,
        lambda: load.run(port, requests, seconds=sizes.swap_window_s, **arguments),
    )


class Checker(AbstractContextManager["Checker"]):
    """A client beside the load whose every answer is compared with what its release gives of its store versions.

    It asks in the runs without changes, too: the runs differ in the changes alone. It shares the generator's core, so
    that it compares only after the runs.
    """

    def __init__(self, port: int, path: str, keys: int, changed: list[np.ndarray], models: Path) -> None:
        self._port, self._path, self._changed = port, path, changed
        self._bodies = case.bodies(2_000, keys, seed=10)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        first = home.ask(port, path, case.bodies(1, 100, seed=1)[0])
        self._version, self._release = first["stores"]["product"]["version"], first["release"]
        self._scorers = [case.scorer(models, case.NETWORK, seed) for seed in (0, 1, 2)]
        self._asked: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._failed: list[str] = []

    def __enter__(self) -> "Checker":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        os.sched_setaffinity(0, {OTHER_CORE})  # this thread alone
        for body in itertools.cycle(self._bodies):
            if self._done.wait(1 / _CHECKS_PER_S):
                return
            try:
                self._asked.append((body, home.ask(self._port, self._path, body)))
            except (urllib.error.URLError, OSError, ValueError) as error:
                self._failed.append(f"{type(error).__name__}: {error}")

    def _fault_of(self, body: dict[str, Any], answer: dict[str, Any]) -> str:
        version, release = answer["stores"]["product"]["version"], answer["release"]
        candidates = np.array(body["candidates"])
        matrix = case.matrix_of(body[case.HOUSEHOLD], candidates)
        for number, ids in enumerate(self._changed[: max(version - self._version, 0)]):
            hit = np.isin(candidates, ids)
            if hit.any():
                new = case.features_of(case.PRODUCT, candidates[hit], len(case.PRODUCT_FEATURES), number + 1)
                matrix[hit, len(case.HOUSEHOLD_FEATURES) :] = new
        wanted = dict(zip(candidates.tolist(), self._scorers[seed_of(release - self._release)](matrix), strict=True))
        far = [item for item in answer["items"] if abs(item["score"] - float(wanted[item[case.PRODUCT]])) > 1e-5]
        if far:
            return f"release {release}, version {version}: {far[0]} should be {wanted[far[0][case.PRODUCT]]}"
        return ""

    def outcome(self) -> dict[str, Any]:
        """What the answers were; call it after the runs."""
        of_model = [(body, answer) for body, answer in self._asked if answer["answered_by"] == "model"]
        wrong = self._failed + list(filter(None, itertools.starmap(self._fault_of, of_model)))
        return {
            "answers": len(self._asked), "of_model": len(of_model), "wrong": len(wrong), "first_wrong": wrong[:3],
            "versions": len({answer["stores"]["product"]["version"] for _, answer in of_model}),
            "releases": len({answer["release"] for _, answer in of_model}),
        }  # fmt: skip


def seed_of(swaps: int) -> int:
    """The network that answers after so many swaps: the first, then two others in turns."""
    return 0 if swaps <= 0 else 1 + (swaps - 1) % 2
