"""Follow the states of rollouts, in the watching thread: open candidates, and add or remove the variants of releases.

A candidate is always in worker processes: not even its modules are imported by the reader, because code can hang, end
the process or overwrite memory when it is loaded. Beside a canary, the control is opened like the candidate: the
current release, for as many keys, so that times of equally placed models are compared.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.rollouts.traffic_split import ShadowScorer, TrafficSplit
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.render import Renderer
from forecache.realtime.answer.served_release import ModelPath, ServedRelease, add_cache, serve_release, uncached_path
from forecache.realtime.deadline import RequestQueue
from forecache.realtime.log.answer_log import AnswerLog, Sampler
from forecache.realtime.metrics import ModelCells, PathCounters
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_release
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.release.rollout_state import RolloutState, read_rollout, running_rollout
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest, RefusedCallError, StageTimes
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.follow import RetiredParts

PATIENCE_S = 60.0
"""A candidate that is not ready after this time counts as unavailable."""
_RETRY_S = 30.0


class UnavailablePath:
    """A `ModelPath` that refuses all requests, for a candidate that cannot be loaded."""

    in_loop = False

    def __init__(self) -> None:
        self.times = StageTimes()

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        raise RefusedCallError("The release cannot be loaded here.")

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        raise RefusedCallError("The release cannot be loaded here.")

    def expected_s(self) -> float:
        return float("inf")

    def close(self) -> None:
        """Do nothing: no resources."""


class CandidateProcess:
    """The release that is being rolled out, or its control, opened in a separate thread without a time limit.

    Attributes:
        loaded: Its description; None until it could be read.
        path: To its processes; None until one is warm.
        failure: Why it is unavailable; "" during the first attempt, and once it is ready.
    """

    def __init__(
        self,
        settings: Settings,
        folder: ReleaseFolder,
        number: int,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: PathCounters,
    ) -> None:
        self._settings, self._folder, self.number = settings, folder, number
        self._loop, self._counters = loop, counters
        self._began, self._again_at = time.monotonic(), 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Lock()
        self._is_closed = False
        self.loaded: OpenRelease | None = None
        self.path: ModelPath | None = None
        self.failure = ""

    @property
    def is_late(self) -> bool:
        """True if it is unavailable, or not ready after a minute."""
        return self.path is None and bool(self.failure or time.monotonic() > self._began + PATIENCE_S)

    def open_if_due(self) -> None:
        """Open it, or try again half a minute after a failure."""
        if self.path is not None or (self._thread is not None and self._thread.is_alive()):
            return
        if time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + _RETRY_S
            self._thread = threading.Thread(target=self._open, name="forecache-candidate", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End its processes, also those that are still being started."""
        with self._closed:
            self._is_closed = True
            path, self.path = self.path, None
        if path is not None:
            path.close()

    def _open(self) -> None:
        from forecache.realtime.workers.worker_path import open_worker_path

        try:
            loaded = OpenRelease(read_release(self._folder, self.number), self._folder.release(self.number))
            self.loaded = loaded
            path: ModelPath = open_worker_path(
                loaded, settings=self._settings, loop=self._loop, counters=self._counters
            )
            # With the cache that it will have once current: without it, it would look slow.
            path = add_cache(path, loaded, self._counters, keeps_features=True)
        except Exception as error:  # noqa: BLE001  # after any error, the current release goes on answering
            reason = f"{type(error).__name__}: {error}"
            if reason != self.failure:
                logger.error("Release %d of %s cannot be asked: %s", self.number, self._folder.name, error)
            self.failure = reason
            return
        with self._closed:
            if not self._is_closed:
                self.path, self.failure = path, ""
                logger.info("Release %d of %s is ready in processes of its own.", self.number, self._folder.name)
                return
        path.close()


logger = logging.getLogger("forecache.realtime")
_RETIRE_S = 10.0
LOADING = "loading"
"""Arm of the candidate's keys while it is still being opened: their requests say nothing about it."""


@dataclass
class _FollowedRollout:
    """A rollout in this worker; `shown` are the values that its variants were made from."""

    state: RolloutState
    candidate: CandidateProcess
    control: CandidateProcess | None = None
    shown: tuple[object, ...] = ()


class RolloutFollower:
    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        versions: Mapping[str, VersionAnswers],
        *,
        cells_of: Callable[[str], ModelCells],
        log_of: Callable[[Release, str], AnswerLog | None],
        engine: AnswerEngine,
        queue: RequestQueue,
    ) -> None:
        self._settings, self._loop, self._versions = settings, loop, versions
        self._cells_of, self._log_of, self._engine, self._queue = cells_of, log_of, engine, queue
        self._followed: dict[str, _FollowedRollout] = {}
        self._retired = RetiredParts()
        self._told: dict[str, str] = {}

    def follow_states(self, served: Mapping[str, ServedRelease], install: Callable[[ServedRelease], None]) -> None:
        """Update the variants of all served releases to the states of their rollouts."""
        for name in self._followed.keys() - served.keys():
            self._retire_candidate(name)
        for name, now in served.items():
            try:
                changed = self.arrange_variants(name, now)
            except Exception:
                logger.exception("The rollout of %s cannot be followed; its current release answers.", name)
                changed = replace(now, split=None, renderer=_plain_renderer(now)) if now.split is not None else now
            if changed is not now:
                install(changed)
        self._retired.close_due()

    def arrange_variants(self, name: str, served: ServedRelease) -> ServedRelease:
        """Return a current release with the variants of its running rollout, if any; itself if nothing changed."""
        state = self._read_state(name)
        if state is None or state.current != served.number:
            self._retire_candidate(name)
            return served if served.split is None else replace(served, split=None, renderer=_plain_renderer(served))
        followed = self._followed.get(name)
        if followed is None or (followed.state.release, followed.state.started_at) != (state.release, state.started_at):
            self._retire_candidate(name)
            followed = self._followed[name] = _FollowedRollout(state, self._opened_apart(name, state.release))
        followed.state = state
        if state.stage == "canary" and followed.control is None and uncached_path(served.path).in_loop:
            followed.control = self._opened_apart(name, state.current)
        candidate, control = followed.candidate, followed.control
        for each in (candidate, control):
            if each is not None:
                each.open_if_due()
        shown = (
            state.stage, state.share, candidate.path, candidate.is_late, candidate.loaded, served.path,
            *(() if control is None else (control.path, control.is_late)),
        )  # fmt: skip
        if followed.shown == shown and served.split is not None:
            return served
        arranged = self._add_variants(replace(served, split=None, renderer=_plain_renderer(served)), followed)
        followed.shown = shown
        return arranged if arranged.split is not None or served.split is not None else served

    def close(self) -> None:
        for followed in self._followed.values():
            followed.candidate.close()
            if followed.control is not None:
                followed.control.close()
        self._retired.close_all()

    def _opened_apart(self, name: str, number: int) -> CandidateProcess:
        """A release that is opened in processes of its own at its next turns."""
        folder, counters = open_releases(self._settings, name), self._cells_of(name).path_counters
        return CandidateProcess(self._settings, folder, number, loop=self._loop, counters=counters)

    def _read_state(self, name: str) -> RolloutState | None:
        folder = open_releases(self._settings, name)
        try:
            state = running_rollout(read_rollout(folder), read_pointer(folder))
        except ForecacheError as error:
            if self._told.get(name) != error.message:
                self._told[name] = error.message
                logger.error("The rollout of %s is not followed: %s", name, error)
            return None
        self._told.pop(name, None)
        return state

    def _add_variants(self, base: ServedRelease, followed: _FollowedRollout) -> ServedRelease:
        state, candidate = followed.state, followed.candidate
        log = base.loaded.release.log
        if log is None:  # a state not written by Forecache: without a log there is no key to split by
            return base
        sampler = Sampler(base.name, log, base.loaded.release.request)
        other, shadow = self._release_as_variant(base, "aa"), None
        if state.stage != "aa":
            of_candidate = self._candidate_release(candidate, state.stage)
            if state.stage == "shadow":
                if of_candidate is not None:
                    shadow = ShadowScorer(of_candidate, self._engine, self._queue)
            elif of_candidate is not None and candidate.path is not None and not _is_awaited(followed.control):
                other = of_candidate
            else:
                other = self._release_as_variant(base, "canary" if candidate.is_late else LOADING)
        if state.stage == "shadow" and shadow is None:
            return base
        current = self._release_as_variant(base, "current")
        split = TrafficSplit(
            state, sampler, current=current, other=other, stand_in=self._release_as_variant(base, "canary"),
            shadow=shadow,
            control=self._control(base, followed) if state.stage == "canary" else None,
        )  # fmt: skip
        return replace(current, split=split)

    def _control(self, base: ServedRelease, followed: _FollowedRollout) -> ServedRelease | None:
        """The current release as a canary is placed, in processes; None while it is not there."""
        control = followed.control
        if control is None:
            return self._release_as_variant(base, "control")
        loaded, path = control.loaded, control.path
        if loaded is None or path is None:
            return None
        log = self._log_of(loaded.release, "control")
        return serve_release(loaded, path, self._versions, base.cells, log, base.drift, variant="control")

    def _candidate_release(self, candidate: CandidateProcess, stage: str) -> ServedRelease | None:
        """Return the candidate as a served release; None until its description is read and it is ready or late."""
        loaded, path = candidate.loaded, candidate.path
        if loaded is None or (path is None and not candidate.is_late):
            return None
        variant = "shadow" if stage == "shadow" else "canary"
        cells, log = self._cells_of(loaded.release.name), self._log_of(loaded.release, variant)
        return serve_release(loaded, path or UnavailablePath(), self._versions, cells, log, variant=variant)

    def _release_as_variant(self, base: ServedRelease, variant: str) -> ServedRelease:
        release = base.loaded.release
        return replace(
            base, variant=variant, renderer=Renderer(release, variant=variant), log=self._log_of(release, variant)
        )

    def _retire_candidate(self, name: str) -> None:
        followed = self._followed.pop(name, None)
        if followed is not None:
            loaded = followed.candidate.loaded
            stay_s = _RETIRE_S if loaded is None else max(_RETIRE_S, 2 * loaded.release.deadline_ms / 1e3)
            for each in (followed.candidate, followed.control):
                if each is not None:
                    self._retired.add(each.close, stay_s=stay_s)


def _is_awaited(control: CandidateProcess | None) -> bool:
    """Return whether the control is still being opened; one that cannot be opened is not waited for."""
    return control is not None and control.path is None and not control.is_late


def _plain_renderer(served: ServedRelease) -> Renderer:
    return Renderer(served.loaded.release)
