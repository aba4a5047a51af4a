"""Release a real-time model: the champion, its transform and the contracts of its features as one unit."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forecache.base.code_version import code_version
from forecache.base.errors import CheckError, DamagedError, InputError, NotFoundError, UnreachableError
from forecache.base.plugins import find_hooks, is_installed, load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.models.applied import FunctionModel
from forecache.declare.realtime.realtime import Realtime
from forecache.kit.installation import open_state
from forecache.lake.ledger import last_record
from forecache.lake.stage_runner import Stage, StageOutcome, StaleWork
from forecache.models.inference.kernel_spec import ScoringPlan
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.model_versions import FEATURES_TAG, ModelVersion
from forecache.operations.distribute_release import distribute_state
from forecache.operations.prove_release import example_requests, pack_code, prove_release
from forecache.operations.view_definitions import keep_definitions
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer, lock_releases, open_releases
from forecache.realtime.release.follow_lake import (
    change_state,
    follow_lake,
    read_local_state,
    require_release,
    write_next_release,
)
from forecache.realtime.release.format import FORMAT, LookupContract, Release, ReleasedModel
from forecache.realtime.release.lake_state import (
    ReleaseState,
    check_unmoved,
    end_rollout,
    make_current,
    read_lake_state,
    roll_back,
)
from forecache.realtime.release.load import RUNTIMES
from forecache.serve.store.manifest import current_timestamp

STAGE = "release"
BEGUN, UNDER_WAY = "begun", "under way"
"""States of a rollout in the details of a release, which else have the reason why there is none."""
_REQUESTS = 50
"""Number of recorded requests that a release keeps."""


def release_model(
    settings: Settings,
    realtime: Realtime,
    *,
    warmup: Sequence[bytes] = (),
    again: bool = False,
    at_once: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Write a release of the champion and the declaration, if one of them has changed, and make it current.

    If a retained release has both, it is made current again instead. If the declaration has a rollout, the rollout
    begins and makes the release current at its end; `details["rollout"]` has its state, or why there is none.

    It is skipped if the release with this model and declaration is current, is being rolled out already, or was rolled
    back, which `details["rolled_back"]` tells, unless `again` is true. `at_once` leaves out the rollout. `warmup` has
    requests in the reader's own JSON; without them it is tested with those of the training, or a generated one.

    Raises:
        CheckError: The champion was trained with another transform or other features than are declared, or the release
            does not answer requests.
        ConflictError: Another process is releasing it, or another installation has released another one meanwhile.
        UnavailableError: The lake, or the remote, cannot be reached, or the state in the lake is damaged.
        NotEverywhereError: It is released, but replicas cannot pull it from the remote yet.
    """
    stage = Stage(settings, STAGE, realtime.name, run_id)
    folder = open_releases(settings, realtime.name)
    model = scoring_model(settings, realtime, run_id=run_id)
    _refuse_other_features(realtime, model)
    plan = plan_model(settings, realtime, model)
    if plan.spec.runtime not in RUNTIMES:
        raise InputError(
            f"The model {model.uri} of {realtime.name!r} runs by {plan.spec.runtime}, which does not answer requests.",
            remedy=f"Log it in a flavour of {', '.join(RUNTIMES)}: ONNX, a Booster, or skops.",
        )
    inputs = fingerprint(
        answers=realtime.answers_fingerprint,
        model=(model.name, model.version, plan.spec.checksum, dict(plan.spec.packages)),
        format=FORMAT,
    )
    with lock_releases(folder, action="release"):
        state = follow_lake(settings, folder, may_begin=True)
        known = _find_identical_release(settings, folder, state, inputs)
    bad, current = state.pointer.bad, state.pointer.current
    why_at_once = "It was asked for." if at_once else immediate_release_reason(folder, realtime, current)
    keep_definitions(settings, realtime, progress=progress if known is None else no_progress)
    if known is None or (known in bad and again):
        stale = StaleWork(stage, {None: inputs}, {None: last_record(settings, STAGE, realtime.name)})
        begin_work(f"a release of {realtime.name}", stale=stale)
        number = _write_release(settings, folder, realtime, model, plan, inputs, warmup, progress)
        keep_definitions(settings, realtime)  # a nightly run may have removed one, as no release named it yet
        is_new = True
    else:
        number, is_new = known, False
    is_known = number in (current, *bad)
    # An earlier champion may be champion again.
    rollout = "" if is_known else start_or_make_current(settings, folder, realtime, number, why_at_once, seen=state)
    result = _release_result(
        realtime, number, model, stage.started, rollout, skipped=is_known or rollout == UNDER_WAY,
        **({"rolled_back": number} if number in bad else {}),
    )  # fmt: skip
    what = "rolled out" if rollout in (BEGUN, UNDER_WAY) else "current"
    if is_new:
        stage.record({None: StageOutcome(0, result.details)}, {None: inputs}, result.seconds)
        progress(f"release {number} of {realtime.name} is {what}", 1.0)
    with lock_releases(folder, action="release"):
        why = f"Champion and declaration are those of release {number} again."
        state = change_state(
            settings, folder, lambda newest: _cancel_rollout(newest, why) if number == current else newest
        )
        # Brought to the remote even if nothing has changed: an earlier push may have failed.
        distribute_state(settings, folder, state, f"Release {number} of {realtime.name} is {what}.")
    return result


def _write_release(
    settings: Settings, folder: ReleaseFolder, realtime: Realtime, model: ModelVersion, plan: ScoringPlan, inputs: str,
    warmup: Sequence[bytes], progress: Progress,
) -> int:  # fmt: skip
    """Prove and write a release; returns its number."""
    functions = [realtime.transform, *([realtime.model.function] if isinstance(realtime.model, FunctionModel) else [])]
    code = pack_code(functions)
    requests = list(warmup) or [text.encode() for text in recorded_requests(settings, realtime.name)[:_REQUESTS]]
    requests = requests or example_requests(realtime.request, realtime.candidates)
    released = ReleasedModel(model.name, model.version, model.uri, plan.spec)
    draft = draft_release(realtime, released, inputs, code_version(settings))
    progress(f"proving a release of {realtime.name}", 0.5)
    prove_release(draft, realtime.transform, model=plan.payload, code=code, warmup=requests)
    bins = next((live_bins(settings, realtime, model) for live_bins in find_hooks("live_bins")), None)
    with lock_releases(folder, action="release"):
        return write_next_release(
            settings, folder, draft, model=plan.payload, code=code, warmup=requests, bins=bins
        )  # fmt: skip


def immediate_release_reason(folder: ReleaseFolder, realtime: Realtime, current: int | None) -> str:
    """The reason why a new release answers all requests at once, in a sentence; "" if it is rolled out in steps."""
    if realtime.rollout is None:
        return "Its declaration has no rollout."
    if not is_installed("rollouts"):
        return "This installation has no plug-in `rollouts`."
    return str(load_hook("rollouts", "immediate_release_reason")(folder, realtime, current))


def start_or_make_current(
    settings: Settings, folder: ReleaseFolder, realtime: Realtime, number: int, why_at_once: str, *, seen: ReleaseState
) -> str:
    """Start the rollout of a written release, or make it current at once; returns `BEGUN`, `UNDER_WAY` or the reason.

    Raises:
        ConflictError: It was returned meanwhile, or another release or rollout has begun, or another process is
            changing the releases.
    """
    if not why_at_once:
        return str(load_hook("rollouts", "start_rollout")(settings, folder, realtime, number, seen=seen))

    def decide(state: ReleaseState) -> ReleaseState:
        if number == state.pointer.current:
            return state
        check_unmoved(state, seen, realtime.name)
        return make_current(state, number, realtime.name)

    with lock_releases(folder, action="release"):
        change_state(settings, folder, decide)
    return why_at_once


def _cancel_rollout(state: ReleaseState, why: str) -> ReleaseState:
    """End the rollout that is under way, if any, without marking its release as bad."""
    if state.running is None:
        return state
    return end_rollout(replace(state, rollout=replace(state.running, is_bad=False)), "returned", why)


def roll_back_release(settings: Settings, name: str, number: int | None = None, *, reason: str = "") -> ReleasePointer:
    """Make an earlier release current again; the present one, and those after it, are marked as rolled back.

    A release that is being rolled out is returned instead, and the one before it goes on answering. If what answers
    here was rolled back already, by a process that was killed or by another installation, that is finished, and nothing
    else is done. While the lake is away it is done here, and brought to the lake by the next operation.

    Args:
        number: The release; None: the newest complete one before the current that was not rolled back.

    Raises:
        NotFoundError: There is no such release, or none before.
        ConflictError: Another release has become current meanwhile, or another process is changing the releases.
        UnavailableError: The lake does not tell the state, and `number` is after the current release.
        DamagedError: The release is damaged.
        NotEverywhereError: It is done here, but not in the lake, which is away, or not on the remote.
    """
    folder = open_releases(settings, name)
    if not folder.root.is_dir() and read_lake_state(settings, name) is None:
        raise NotFoundError(f"Nothing is released of {name}.", remedy=f"Run `forecache release build {name}`.")
    with lock_releases(folder, action="rollback"):
        seen = read_local_state(folder)
        current, candidate = seen.pointer.current, seen.rollout
        is_urgent = number is None or current is None or number <= current
        state = follow_lake(settings, folder, is_urgent=is_urgent)
        rollout = state.rollout
        if candidate is not None and rollout is not None and candidate.started_at == rollout.started_at:
            seen = state if rollout.is_over and not candidate.is_over else seen
        if current is None:
            seen = state
        is_returned = seen is state and rollout is not None and rollout.stage == "returned" and rollout.is_bad
        if number is None and (is_returned or seen.pointer.current in state.pointer.bad):
            what = f"Releases of {name} were rolled back."  # by a process that was killed, or elsewhere
        elif number is None and seen.running is not None:
            what = f"Release {seen.running.release} of {name} is returned."
            why = reason or "rolled back by hand"

            def return_candidate(newest: ReleaseState) -> ReleaseState:
                check_unmoved(newest, seen, name)
                return newest if newest.running is None else end_rollout(newest, "returned", why)

            state = change_state(settings, folder, return_candidate, is_urgent=is_urgent)
        else:
            is_named = number is not None
            if number is None:
                number = _find_previous_release(settings, folder, state)
            if number not in state.inputs:
                listed = ", ".join(map(str, sorted(state.inputs))) or "none"
                raise NotFoundError(
                    f"There is no release {number} of {name}.", remedy=f"Those that are kept: {listed}."
                )
            require_release(settings, folder, number)
            what, target = f"Release {number} of {name} is current.", number

            def decide(newest: ReleaseState) -> ReleaseState:
                if not is_named and seen.pointer.current in newest.pointer.bad:
                    return newest  # another installation has just rolled it back
                check_unmoved(newest, seen, name)
                return roll_back(newest, target)

            state = change_state(settings, folder, decide, is_urgent=is_urgent)
        distribute_state(settings, folder, state, what)
    return state.pointer


def _find_identical_release(settings: Settings, folder: ReleaseFolder, state: ReleaseState, inputs: str) -> int | None:
    """Find a whole release with these inputs: the current one, a rolled-back one, or the newest other one."""
    current, bad = state.pointer.current, state.pointer.bad
    for number in (current, *bad, *sorted(state.inputs, reverse=True)):
        if number is not None and state.inputs.get(number) == inputs and _is_whole(settings, folder, number):
            return number
    return None


def _find_previous_release(settings: Settings, folder: ReleaseFolder, state: ReleaseState) -> int:
    """Find the newest whole release before the current one that was not rolled back; raises `NotFoundError`."""
    current, bad = state.pointer.current, state.pointer.bad
    for number in sorted(state.inputs, reverse=True):
        if number < (current or 0) and number not in bad and _is_whole(settings, folder, number):
            return number
    raise NotFoundError(
        f"There is no release of {folder.name} before {current or 'the first'} to go back to.",
        remedy=f"`forecache release list {folder.name}` lists those that are there.",
    )


def _is_whole(settings: Settings, folder: ReleaseFolder, number: int) -> bool:
    try:
        require_release(settings, folder, number)
    except (NotFoundError, DamagedError, CheckError, UnreachableError):
        return False
    return True


def record_requests(settings: Settings, name: str, texts: Sequence[str]) -> None:
    """Record requests of the training of a model, for its releases on any machine."""
    open_state(settings).write(requests_file(name), json.dumps(texts).encode())


def recorded_requests(settings: Settings, name: str) -> list[str]:
    """The requests that the training of a model has recorded; [] if there are none."""
    found = open_state(settings).read(requests_file(name))
    return [] if found is None else list(json.loads(found[0]))


def requests_file(name: str) -> str:
    """The file of the lake's state with the recorded requests of a model."""
    return f"realtime/{name}/requests.json"


def _refuse_other_features(realtime: Realtime, model: ModelVersion) -> None:
    """Refuse a champion that was trained with another transform or other views."""
    if not realtime.is_trained:
        return
    if model.tags.get(FEATURES_TAG) != realtime.fingerprints.features:
        raise CheckError(
            f"Model {realtime.name!r} version {model.version} was trained with another transform, other request fields "
            "or other feature views than are declared now.",
            remedy=f"`forecache train {realtime.name}` trains one with them; the current release stays until then.",
        )


_DECLARED = (
    "name", "request", "candidates", "output", "fallbacks", "deadline_ms", "on_contract", "on_unknown", "on_nan",
    "runs", "cache_bytes", "log", "description",
)  # fmt: skip
"""Fields that a release has from its declaration as they are."""


def draft_release(realtime: Realtime, model: ReleasedModel, inputs: str, code: str) -> Release:
    """A release of a declaration and a model, without a number and files; `code` is the version of the code."""
    lookups = tuple(
        LookupContract(called, each.view.name, by, columns, contract, each.max_age_h, each.view.live is not None)
        for each, (called, by, columns, contract) in zip(realtime.lookups, realtime.contracts, strict=True)
    )
    declared: dict[str, Any] = {name: getattr(realtime, name) for name in _DECLARED}
    return Release(
        **declared, lookups=lookups, features=realtime.feature_names, transform=realtime.transform_path, model=model,
        inputs=inputs, created_at=current_timestamp(), code_version=code,
    )  # fmt: skip


def _release_result(
    realtime: Realtime, number: int, model: ModelVersion, started: float, rollout: str, *, skipped: bool = False,
    **more: Any,
) -> StageResult:  # fmt: skip
    told = {"rollout": rollout} if rollout and realtime.rollout is not None else {}
    said = {"model": {"name": model.name, "version": model.version}, "model_uri": model.uri}
    details = {"release": number, **said, **told, **more}
    return StageResult(STAGE, realtime.name, 0, time.perf_counter() - started, skipped=skipped, details=details)
