"""The releases that one worker serves: follow the pointers, load new releases, warm them and swap them in.

A release that could not be loaded is tried again after a pause, as loading takes time from the answers.
"""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import NamedTuple

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError
from forecache.realtime.answer.calibrate import warm_and_measure_s
from forecache.realtime.answer.cpu_guard import CpuGuard
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.answer.model_path import ModelPath
from forecache.realtime.drift.watch import open_watch
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.writer import LogWriter
from forecache.realtime.metrics import CELL, RealtimeMetrics
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    open_releases,
    read_current,
    read_release,
)
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import LoadedRelease, OpenRelease, load_previous_release, load_release
from forecache.realtime.release.released_models import list_released_models
from forecache.realtime.rollout.follow_rollouts import RolloutFollower
from forecache.realtime.rollout.shadow import ShadowScorer
from forecache.realtime.score_cache import CachedPath, uncached_path
from forecache.realtime.served_release import ServedRelease, serve_release
from forecache.serve.reader.http.extension import ExtensionContext
from forecache.serve.reader.versions.watcher import RunOnLoop, classify_failure

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class _Pause(NamedTuple):
    generation: int
    pause_s: float
    until: float


class RetryPauses:
    """Pauses before the current release of a model is loaded again, each for one generation of its pointer."""

    def __init__(self) -> None:
        self._of: dict[str, _Pause] = {}

    def lengthen(self, name: str, generation: int) -> None:
        """Start a pause: twice as long as the last one if the pointer has not moved since."""
        before = self._of.get(name)
        again = before is not None and before.generation == generation
        pause_s = min(2 * before.pause_s, _LONGEST_PAUSE_S) if before is not None and again else _FIRST_PAUSE_S
        self._of[name] = _Pause(generation, pause_s, monotonic() + pause_s)

    def is_waiting(self, name: str) -> bool:
        pause = self._of.get(name)
        return pause is not None and monotonic() < pause.until

    def generation(self, name: str) -> int | None:
        """Return the generation of the pointer whose release failed; None if none has failed."""
        pause = self._of.get(name)
        return None if pause is None else pause.generation

    def end(self, name: str) -> None:
        self._of.pop(name, None)


logger = logging.getLogger("forecache.realtime")
SLOWEST_S = 0.002
"""The 99th percentile above which a model does not run on the event loop."""
_RETIRE_S = 10.0
"""A replaced release stays open for this time or twice its deadline: running requests still use it."""


class ServedModels:
    """The served releases of one worker.

    Only the event loop's thread changes `served`; the watching thread loads, warms and closes.

    Attributes:
        served: By name.
        failures: Models whose current release cannot be served, and why; an earlier one may still answer.
        known: Names of all that have a folder.
        shadow_of: Makes the scorer of shadow requests for a candidate; set before the first `follow_pointers`.
    """

    shadow_of: Callable[[ServedRelease], ShadowScorer]

    def __init__(self, context: ExtensionContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._loop = context, loop
        self.metrics = RealtimeMetrics(context.metrics.extension)
        self.metrics.reset_gauges()
        self.guard = CpuGuard()
        self.served: dict[str, ServedRelease] = {}
        self.failures: dict[str, str] = {}
        self.known: frozenset[str] = frozenset(list_released_models(context.settings))
        self._retired: list[tuple[float, ServedRelease]] = []
        self._pauses = RetryPauses()
        self._compared: dict[str, ReleasePointer] = {}
        self._log_writer: LogWriter | None = None
        self._rollouts = RolloutFollower(
            context.settings,
            loop,
            context.catalog.answers,
            cells_of=self.metrics.cells_of_candidate,
            log_of=self._log_of,
            shadow_of=lambda served: self.shadow_of(served),
        )

    def follow_pointers(self, run_on_loop: RunOnLoop) -> None:
        """Load, swap in and close releases as their pointers say; called in the watching thread."""
        settings = self._context.settings
        self.known = frozenset(list_released_models(settings))
        for name in sorted(self.known):
            try:
                if not self._is_paused(name):
                    self._follow_pointer(name, run_on_loop)
            except Exception as error:  # noqa: BLE001  # the watcher outlives a broken release, and logs it
                self._record_failure(name, error)
        self._rollouts.follow_states(dict(self.served), lambda served: run_on_loop(lambda: self._install(served)))
        self._close_retired()

    def close(self) -> None:
        """Write the log, close the paths to the models, and unload the releases' modules."""
        if self._log_writer is not None:
            self._log_writer.close()
        self._rollouts.close()
        for served in [*self.served.values(), *(each for _, each in self._retired)]:
            served.path.close()
            served.loaded.close()

    def _is_paused(self, name: str) -> bool:
        """Return True while a release that failed is not to be tried again."""
        return self._pauses.is_waiting(name) and self._has_failed_release(name)

    def _has_failed_release(self, name: str) -> bool:
        """Return True if the current release was tried and cannot be served."""
        failed = self._pauses.generation(name)
        return failed is not None and read_current(open_releases(self._context.settings, name)).generation == failed

    def _follow_pointer(self, name: str, run_on_loop: RunOnLoop) -> None:
        folder = open_releases(self._context.settings, name)
        pointer = read_current(folder)
        served = self.served.get(name)
        path = uncached_path(served.path) if served is not None else None
        is_newest = pointer.current is None or (served is not None and self._is_current(served, folder, pointer))
        if (
            served is not None
            and isinstance(path, InLoopPath)
            and path.misbehaved
            and (is_newest or self._has_failed_release(name))
        ):
            self._move_to_worker_process(served, run_on_loop)
            return
        if is_newest or pointer.current is None:
            self._clear_failure(name)
            return
        began = perf_counter()
        try:
            loaded = load_release(folder, pointer.current)
        except (DamagedError, NotFoundError):
            self._serve_earlier_release(folder, pointer, run_on_loop)
            raise
        self._serve(loaded, began, run_on_loop)
        self._clear_failure(name)

    def _serve_earlier_release(self, folder: ReleaseFolder, pointer: ReleasePointer, run_on_loop: RunOnLoop) -> None:
        """Serve an earlier release in place of a damaged one. The served release stays, unless it was rolled back."""
        name = folder.name
        self.metrics.cells_of_model(name).cells[CELL["damaged"]] = 1
        served = self.served.get(name)
        if served is not None and served.number not in pointer.bad:
            return
        began = perf_counter()
        if (loaded := load_previous_release(folder, pointer)) is not None:
            self._serve(loaded, began, run_on_loop)
            logger.error("That is a fallback: release %s of %s is damaged.", pointer.current, name)

    def _serve(self, loaded: LoadedRelease, began: float, run_on_loop: RunOnLoop) -> None:
        try:
            self._swap_in(loaded, self._open_path(loaded), run_on_loop)
        except BaseException:
            loaded.close()
            raise
        name, number = loaded.release.name, loaded.release.number
        logger.info("%s answers by release %d, ready after %.3f s.", name, number, perf_counter() - began)

    def _is_current(self, served: ServedRelease, folder: ReleaseFolder, pointer: ReleasePointer) -> bool:
        """Compare the served release with the current one by content: numbers restart at 1 if the store was lost."""
        if served.number != pointer.current:
            return False
        if self._compared.get(served.name) != pointer:
            if read_release(folder, served.number).to_json() != served.loaded.release.to_json():
                return False
            self._compared[served.name] = pointer
        return True

    def _clear_failure(self, name: str) -> None:
        self.failures.pop(name, None)
        self._pauses.end(name)
        self.metrics.cells_of_model(name).cells[CELL["damaged"]] = 0

    def _open_path(self, loaded: LoadedRelease) -> ModelPath:
        """Open the path to a model: on the event loop if the model is native and fast, else in worker processes."""
        release = loaded.release
        if release.runs != "process" and loaded.is_native:
            p99_s = warm_and_measure_s(loaded, self._context.catalog.answers)
            self.metrics.cells_of_model(release.name).cells[CELL["p99_us"]] = int(min(p99_s, 1e6) * 1e6)
            if p99_s < SLOWEST_S or (release.runs == "loop" and p99_s < float("inf")):
                return InLoopPath(loaded, self.guard, p99_s=p99_s)
            logger.warning(
                "%s takes %.1f ms at the 99th percentile and runs in a process of its own.", release.name, p99_s * 1e3
            )
        return self._open_worker_path(loaded)

    def _open_worker_path(self, loaded: OpenRelease) -> ModelPath:
        from forecache.realtime.workers.worker_path import open_worker_path

        counters = self.metrics.cells_of_model(loaded.release.name).path_counters
        return open_worker_path(loaded, settings=self._context.settings, loop=self._loop, counters=counters)

    def _move_to_worker_process(self, served: ServedRelease, run_on_loop: RunOnLoop) -> None:
        """Move a model that has blocked the event loop into worker processes."""
        self._swap_in(served.loaded, self._open_worker_path(served.loaded), run_on_loop)

    def _swap_in(self, loaded: OpenRelease, path: ModelPath, run_on_loop: RunOnLoop) -> None:
        name = loaded.release.name
        cells = self.metrics.cells_of_model(name)
        if loaded.release.cache_bytes:
            path = CachedPath(
                path, most_bytes=loaded.release.cache_bytes, counters=cells.path_counters,
                keeps_features=loaded.release.log is not None or loaded.reference is not None,
            )  # fmt: skip
        log, window_s = self._log_of(loaded.release, "current"), self._context.settings.reader_drift_window_s
        drift = open_watch(self.metrics.drift, name, loaded.reference, window_s=window_s)
        new = self._rollouts.arrange_arms(
            name, serve_release(loaded, path, self._context.catalog.answers, cells, log, drift)
        )  # fmt: skip
        old = self.served.get(name)
        gc.freeze()
        run_on_loop(lambda: self._install(new))
        for cell, value in (("release", new.number), ("live", 1), ("in_loop", int(path.in_loop))):
            cells.cells[CELL[cell]] = value
        cells.cells[CELL["swaps"]] += 1
        if old is not None:
            stay_s = max(_RETIRE_S, 2 * old.loaded.release.deadline_ms / 1e3)
            self._retired.append((monotonic() + stay_s, old))

    def _log_of(self, release: Release, arm: str) -> AnswerLog | None:
        """Return the log of a release's answers in an arm; None if the release declares no log."""
        if release.log is None:
            return None
        if self._log_writer is None:
            settings = self._context.settings
            replica = f"{socket.gethostname()}:{settings.reader_port}#{os.getpid()}"
            self._log_writer = LogWriter(settings, replica=replica)
        channel = self._log_writer.channel(release.name, self.metrics.cells_of_model(release.name).log_counters)
        return AnswerLog(release, channel, arm=arm)

    def _install(self, served: ServedRelease) -> None:
        self.served[served.name] = served

    def _close_retired(self) -> None:
        now = monotonic()
        due = [served for until, served in self._retired if until <= now]
        self._retired = [(until, served) for until, served in self._retired if until > now]
        in_use = {id(served.loaded) for served in self.served.values()}
        for served in due:
            served.path.close()
            if id(served.loaded) not in in_use:
                served.loaded.close()

    def _record_failure(self, name: str, error: Exception) -> None:
        try:
            generation = read_current(open_releases(self._context.settings, name)).generation
        except ForecacheError:
            generation = -1
        self._pauses.lengthen(name, generation)
        found = classify_failure(error)
        if self.failures.get(name) != found.reason:
            self.metrics.cells_of_model(name).cells[CELL["swap_failures"]] += 1
            logger.error("The current release of %s cannot be served: %s", name, found.text, exc_info=found.trace)
        self.failures[name] = found.reason
