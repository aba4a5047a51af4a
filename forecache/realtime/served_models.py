"""The releases that one worker serves: follow the pointers, load new releases, warm them and swap them in."""

import asyncio
import gc
import logging
import os
import socket
from functools import partial
from time import perf_counter

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError
from forecache.base.plugins import find_hooks
from forecache.kit.http.load_shedding import RouteLimit
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import CpuGuard, InLoopPath, warm_and_measure_s
from forecache.realtime.answer.served_release import ModelPath, ServedRelease, add_cache, serve_release, uncached_path
from forecache.realtime.deadline import RequestQueue
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.spool_writer import LogWriter
from forecache.realtime.metrics import CELL, RealtimeMetrics
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer, open_releases, read_release
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import LoadedRelease, OpenRelease, load_previous_release, load_release
from forecache.realtime.release.released_models import list_released_models
from forecache.serve.reader.http.extension import ExtensionContext
from forecache.serve.reader.versions.follow import RunOnLoop, VersionFollower

logger = logging.getLogger("forecache.realtime")
SLOWEST_S = 0.002
"""The 99th percentile above which a model does not run on the event loop."""
_RETIRE_S = 10.0
"""A replaced release stays open for this time or twice its deadline: running requests still use it."""


class ServedModels:
    """The served releases of one worker.

    Attributes:
        served: By name; see `VersionFollower.served`.
        failures: Models whose current release cannot be served, and why; an earlier one may still answer.
        known: Names of all that have a folder.
    """

    def __init__(self, context: ExtensionContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._loop = context, loop
        self.metrics = RealtimeMetrics(context.metrics.extension)
        self.metrics.reset_gauges()
        self.guard = CpuGuard()
        self.engine, self.queue = AnswerEngine(context.catalog.answers), RequestQueue(loop, context.shedder)
        self._follower = VersionFollower[ServedRelease](
            logger, noun="release", count_failure=self._count_failure, generation_of=self._generation_of
        )
        self.served, self.failures = self._follower.served, self._follower.failures
        self.known: frozenset[str] = frozenset(list_released_models(context.settings))
        self._compared: dict[str, ReleasePointer] = {}
        self._log_writer: LogWriter | None = None
        self._rollouts = [
            open_follower(
                context.settings, loop, context.catalog.answers, cells_of=self.metrics.cells_of_candidate,
                log_of=self._log_of, engine=self.engine, queue=self.queue,
            )
            for open_follower in find_hooks("rollout_follower")
        ]  # fmt: skip
        """The follower of rollouts, if that plug-in is installed."""

    def follow_pointers(self, run_on_loop: RunOnLoop) -> None:
        """Load, swap in and close releases as their pointers say; called in the watching thread."""
        self.known = frozenset(list_released_models(self._context.settings))
        self._follower.follow(self.known, lambda name: self._follow_pointer(name, run_on_loop))
        for follower in self._rollouts:
            follower.follow_states(
                dict(self.served), lambda served: run_on_loop(partial(self._follower.install, served.name, served))
            )

    def close(self) -> None:
        """Write the log, close the paths to the models, and unload the releases' modules."""
        if self._log_writer is not None:
            self._log_writer.close()
        for follower in self._rollouts:
            follower.close()
        self._follower.retired.close_all()
        for served in self.served.values():
            served.path.close()
            served.loaded.close()

    def _follow_pointer(self, name: str, run_on_loop: RunOnLoop) -> bool:
        """Serve the release that the pointer names unless it is served already; return whether it is."""
        folder = open_releases(self._context.settings, name)
        pointer = read_pointer(folder)
        served = self.served.get(name)
        path = uncached_path(served.path) if served is not None else None
        is_newest = pointer.current is None or (served is not None and self._is_current(served, folder, pointer))
        if (
            served is not None
            and isinstance(path, InLoopPath)
            and path.misbehaved
            and (is_newest or self._follower.has_failed(name))
        ):
            self._move_to_worker_process(served, run_on_loop)
            return False
        if not is_newest and pointer.current is not None:
            began = perf_counter()
            try:
                loaded = load_release(folder, pointer.current)
            except (DamagedError, NotFoundError):
                self._serve_earlier_release(folder, pointer, run_on_loop)
                raise
            self._serve(loaded, began, run_on_loop)
        self.metrics.cells_of_model(name).cells[CELL["damaged"]] = 0
        return True

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
        self._swap_in(served.loaded, self._open_worker_path(served.loaded), run_on_loop)

    def _swap_in(self, loaded: OpenRelease, path: ModelPath, run_on_loop: RunOnLoop) -> None:
        name = loaded.release.name
        cells = self.metrics.cells_of_model(name)
        keeps_features = loaded.release.log is not None or loaded.reference is not None
        path = add_cache(path, loaded, cells.path_counters, keeps_features=keeps_features)
        log, window_s = self._log_of(loaded.release, "current"), self._context.settings.reader_drift_window_s
        watches = (open_watch(self.metrics.drift, name, loaded.reference, window_s=window_s)
                   for open_watch in find_hooks("open_watch"))  # fmt: skip
        new = serve_release(loaded, path, self._context.catalog.answers, cells, log, next(watches, None))
        for follower in self._rollouts:
            new = follower.arrange_variants(name, new)
        self._limit_route(new)
        old = self._follower.swap(name, new, run_on_loop)
        if old is None or old.loaded.release.model.runtime != loaded.release.model.runtime:
            gc.freeze()  # the library that was imported; not each release, of which some objects would never be freed
        for cell, value in (("release", new.number), ("live", 1), ("in_loop", int(path.in_loop))):
            cells.cells[CELL[cell]] = value
        cells.cells[CELL["swaps"]] += 1
        if old is not None:
            stay_s = max(_RETIRE_S, 2 * old.loaded.release.deadline_ms / 1e3)
            self._follower.retired.add(partial(self._close_release, old), stay_s=stay_s)

    def _limit_route(self, served: ServedRelease) -> None:
        """Let requests to a model on the event loop be refused unparsed while the queue is full."""
        route, limits = f"POST /v1/{served.name}".encode(), self._context.shedder.limits
        if served.path.in_loop:
            limits[route] = RouteLimit(self.queue, int(served.loaded.release.deadline_ms * 1e6))
        else:
            limits.pop(route, None)

    def _log_of(self, release: Release, variant: str) -> AnswerLog | None:
        """Return the log of a release's answers in a variant; None if the release declares no log."""
        if release.log is None:
            return None
        if self._log_writer is None:
            settings = self._context.settings
            replica = f"{socket.gethostname()}:{settings.reader_port}#{os.getpid()}"
            self._log_writer = LogWriter(settings, replica=replica)
        channel = self._log_writer.channel(release.name, self.metrics.cells_of_model(release.name).log_counters)
        return AnswerLog(release, channel, variant=variant)

    def _close_release(self, served: ServedRelease) -> None:
        served.path.close()
        if all(each.loaded is not served.loaded for each in self.served.values()):
            served.loaded.close()

    def _count_failure(self, name: str) -> None:
        self.metrics.cells_of_model(name).cells[CELL["swap_failures"]] += 1

    def _generation_of(self, name: str) -> int:
        """Return the generation of a model's pointer; -1 while it cannot be read."""
        try:
            return read_pointer(open_releases(self._context.settings, name)).generation
        except ForecacheError:
            return -1
