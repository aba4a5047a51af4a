"""Follow the states of rollouts, in the watching thread: open candidates, and add or remove the arms of releases."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.answer.render import Renderer
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.sampling import Sampler
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.format import Release
from forecache.realtime.rollout.isolated_release import CandidateProcess, UnavailablePath
from forecache.realtime.rollout.rollout_state import RolloutState, read_rollout, running_rollout
from forecache.realtime.rollout.shadow import ShadowScorer
from forecache.realtime.rollout.traffic_split import TrafficSplit
from forecache.realtime.score_cache import uncached_path
from forecache.realtime.served_release import ServedRelease, serve_release
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.follow import RetiredParts

logger = logging.getLogger("forecache.realtime")
_RETIRE_S = 10.0
LOADING = "loading"
"""Arm of the candidate's keys while it is still being opened: their requests say nothing about it."""
ShadowOf = Callable[[ServedRelease], ShadowScorer]


@dataclass
class _FollowedRollout:
    """A rollout in this worker; `shown` are the values that its arms were made from."""

    state: RolloutState
    candidate: CandidateProcess
    control: CandidateProcess | None = None
    shown: tuple[object, ...] = ()


class RolloutFollower:
    """Follows the rollouts in one worker.

    Args:
        versions: The served versions by store name, kept up to date by the reader.
        cells_of: Returns the metrics of a candidate.
        log_of: Returns the log of a release's answers in an arm.
        shadow_of: Makes the scorer of shadow requests for a candidate.
    """

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        versions: Mapping[str, VersionAnswers],
        *,
        cells_of: Callable[[str], ModelCells],
        log_of: Callable[[Release, str], AnswerLog | None],
        shadow_of: ShadowOf,
    ) -> None:
        self._settings, self._loop, self._versions = settings, loop, versions
        self._cells_of, self._log_of, self._shadow_of = cells_of, log_of, shadow_of
        self._followed: dict[str, _FollowedRollout] = {}
        self._retired = RetiredParts()
        self._told: dict[str, str] = {}

    def follow_states(self, served: Mapping[str, ServedRelease], install: Callable[[ServedRelease], None]) -> None:
        """Update the arms of all served releases to the states of their rollouts.

        Args:
            served: The served current releases by name.
            install: Replaces a served release of the same name.
        """
        for name in self._followed.keys() - served.keys():
            self._retire_candidate(name)
        for name, now in served.items():
            try:
                changed = self.arrange_arms(name, now)
            except Exception:
                logger.exception("The rollout of %s cannot be followed; its current release answers.", name)
                changed = replace(now, split=None, renderer=_plain_renderer(now)) if now.split is not None else now
            if changed is not now:
                install(changed)
        self._retired.close_due()

    def arrange_arms(self, name: str, served: ServedRelease) -> ServedRelease:
        """Return a current release with the arms of its running rollout, or without arms; itself if nothing changed."""
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
        arranged = self._add_arms(replace(served, split=None, renderer=_plain_renderer(served)), followed)
        followed.shown = shown
        return arranged if arranged.split is not None or served.split is not None else served

    def close(self) -> None:
        for followed in self._followed.values():
            followed.candidate.close()
            if followed.control is not None:
                followed.control.close()
        self._retired.close_all()

    def failures(self) -> dict[str, str]:
        """Return why candidates are unavailable, by model."""
        return {name: each.candidate.failure for name, each in self._followed.items() if each.candidate.failure}

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

    def _add_arms(self, base: ServedRelease, followed: _FollowedRollout) -> ServedRelease:
        state, candidate = followed.state, followed.candidate
        log = base.loaded.release.log
        if log is None:  # a state not written by Forecache: without a log there is no key to split by
            return base
        sampler = Sampler(base.name, log, base.loaded.release.request)
        other, shadow = self._release_as_arm(base, "aa"), None
        if state.stage != "aa":
            of_candidate = self._candidate_release(candidate, state.stage)
            if state.stage == "shadow":
                if of_candidate is not None:
                    shadow = self._shadow_of(of_candidate)
            elif of_candidate is not None and candidate.path is not None and not _is_awaited(followed.control):
                other = of_candidate
            else:
                other = self._release_as_arm(base, "canary" if candidate.is_late else LOADING)
        if state.stage == "shadow" and shadow is None:
            return base
        current = self._release_as_arm(base, "current")
        split = TrafficSplit(
            state, sampler, current=current, other=other, stand_in=self._release_as_arm(base, "canary"), shadow=shadow,
            control=self._control(base, followed) if state.stage == "canary" else None,
        )  # fmt: skip
        return replace(current, split=split)

    def _control(self, base: ServedRelease, followed: _FollowedRollout) -> ServedRelease | None:
        """The current release as a canary is placed, in processes; None while it is not there."""
        control = followed.control
        if control is None:
            return self._release_as_arm(base, "control")
        loaded, path = control.loaded, control.path
        if loaded is None or path is None:
            return None
        log = self._log_of(loaded.release, "control")
        served = serve_release(loaded, path, self._versions, base.cells, log)
        return replace(served, arm="control", renderer=Renderer(loaded.release, arm="control"), drift=base.drift)

    def _candidate_release(self, candidate: CandidateProcess, stage: str) -> ServedRelease | None:
        """Return the candidate as a served release; None until its description is read and it is ready or late."""
        loaded, path = candidate.loaded, candidate.path
        if loaded is None or (path is None and not candidate.is_late):
            return None
        arm = "shadow" if stage == "shadow" else "canary"
        release, cells = loaded.release, self._cells_of(loaded.release.name)
        log = self._log_of(release, arm)
        served = serve_release(loaded, path or UnavailablePath(), self._versions, cells, log)
        return replace(served, arm=arm, renderer=Renderer(release, arm=arm))

    def _release_as_arm(self, base: ServedRelease, arm: str) -> ServedRelease:
        release = base.loaded.release
        return replace(base, arm=arm, renderer=Renderer(release, arm=arm), log=self._log_of(release, arm))

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
