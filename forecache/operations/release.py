"""Release a real-time model: the champion, its transform and the contracts of its features as one unit."""

import json
import time
from collections.abc import Sequence
from typing import Any

from forecache.base.code_version import code_version
from forecache.base.errors import CheckError, InputError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.models.applied import FunctionModel
from forecache.declare.realtime.realtime import Realtime
from forecache.lake.examples.recorded_requests import recorded_requests_file
from forecache.lake.stage import Stage, StageOutcome
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.versions.model_versions import FEATURES_TAG, ModelVersion
from forecache.operations.replica_errors import report_replica_failure
from forecache.plugins.drift.live_reference import live_bins
from forecache.plugins.rollouts import ownership
from forecache.plugins.rollouts import start_rollout as rollouts
from forecache.plugins.rollouts.controller import apply_manual_action
from forecache.plugins.rollouts.distribute import push_if_owner, write_to_claim
from forecache.plugins.rollouts.reconcile import reconcile_rollout
from forecache.realtime.release.folder import (
    ReleaseFolder,
    ReleasePointer,
    find_identical_release,
    find_previous_release,
    open_releases,
    read_current,
    read_files,
    read_release,
)
from forecache.realtime.release.format import FORMAT, LookupContract, Release, ReleasedModel
from forecache.realtime.release.load import RUNTIMES
from forecache.realtime.release.pack import pack_code
from forecache.realtime.release.prove import example_requests, prove_release
from forecache.realtime.release.write import move_pointer, write_release
from forecache.serve.store.manifest import current_timestamp
from forecache.serve.store.replicas.sync import open_remote

STAGE = "release"
_REQUESTS = 50
"""Number of recorded requests that a release keeps."""


def release_model(
    settings: Settings,
    realtime: Realtime,
    *,
    warmup: Sequence[bytes] = (),
    again: bool = False,
    at_once: bool = False,
    take_over: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Write a release of the champion and the declaration, if one of them has changed, and make it current.

    If a retained release has both, it is made current again instead. If the declaration has a rollout, the rollout
    begins and makes the release current at its end; `details["rollout"]` has its state, or why there is none.

    Args:
        warmup: Requests in the reader's own JSON with which it is tested and warmed up; empty: those that the training
            has recorded, or a generated one.
        again: Release it even if an equal release was rolled back.
        at_once: Answer all requests with it at once, even if a rollout is declared or under way.
        take_over: Make this installation the owner of the model, if another one over the lake is.

    Returns:
        Skipped if the release with this model and declaration is current, is being rolled out already, or was rolled
        back; `details["rolled_back"]` names the last.

    Raises:
        NotFoundError: There is no champion.
        InputError: The runtime of the model does not answer requests, or the code cannot be packed.
        CheckError: The champion was trained with another transform or other features than are declared, or the release
            does not answer requests.
        ConflictError: Another process is releasing it, or another installation over the lake owns it.
        OwnerUnknownError: The lake does not say which installation owns it.
        NotEverywhereError: It is released here, but not on the remote.
    """
    started = time.perf_counter()
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
    if take_over:
        ownership.take_over(settings, folder)
    else:
        ownership.claim_ownership(settings, folder)
    reconcile_rollout(settings, folder)
    pointer = read_current(folder)
    known = find_identical_release(folder, pointer, inputs)
    why_at_once = "It was asked for." if at_once else rollouts.immediate_release_reason(folder, realtime)
    if known is not None and (known not in pointer.bad or not again):
        skipped = known in (pointer.current, *pointer.bad)
        # An earlier champion may be champion again.
        rollout = (
            ""
            if skipped
            else rollouts.start_or_make_current(settings, folder, realtime, known, why_at_once, seen=pointer)
        )
        if known == pointer.current:
            rollouts.cancel_rollout(folder, f"Champion and declaration are those of release {known} again.")
        # Pushed even if nothing has changed: an earlier push may have failed.
        what = "rolled out" if rollout in (rollouts.BEGUN, rollouts.UNDER_WAY) else "current"
        _push_release(settings, folder, f"Release {known} of {realtime.name} is {what}.")
        told = {"rolled_back": known} if known in pointer.bad else {}
        return _release_result(
            realtime, known, model, started, rollout, skipped=skipped or rollout == rollouts.UNDER_WAY, **told
        )  # fmt: skip
    functions = [realtime.transform, *([realtime.model.function] if isinstance(realtime.model, FunctionModel) else [])]
    code = pack_code(functions)
    requests = list(warmup) or recorded_requests(settings, realtime)
    released = ReleasedModel(model.name, model.version, model.uri, plan.spec)
    draft = _draft_release(realtime, released, inputs, code_version(settings))
    progress(f"proving a release of {realtime.name}", 0.5)
    prove_release(draft, realtime.transform, model=plan.payload, code=code, warmup=requests)
    is_current = bool(why_at_once)
    bins = live_bins(settings, realtime, model)
    written = write_release(
        folder, draft, model=plan.payload, code=code, warmup=requests, bins=bins, current=is_current
    )
    rollout = why_at_once or rollouts.start_or_make_current(settings, folder, realtime, written.number, "")
    result = _release_result(realtime, written.number, model, started, rollout)
    Stage(settings, STAGE, realtime.name, run_id).record(
        {None: StageOutcome(0, result.details)}, {None: inputs}, result.seconds
    )
    what = "current" if why_at_once else "rolled out"
    progress(f"release {written.number} of {realtime.name} is {what}", 1.0)
    _push_release(settings, folder, f"Release {written.number} of {realtime.name} is {what}.")
    return result


def roll_back_release(settings: Settings, name: str, number: int | None = None, *, reason: str = "") -> ReleasePointer:
    """Make an earlier release current again; the present one, and those after it, are marked as rolled back.

    A release that is being rolled out is returned instead, and the one before it goes on answering. If a return was
    killed, it is finished, and nothing else is done.

    Args:
        number: The release; None: the newest complete one before the current that was not rolled back.

    Raises:
        NotFoundError: There is no such release, or none before.
        ConflictError: Another installation over the lake owns it, or another release has become current meanwhile.
        OwnerUnknownError: The lake does not say which one does, and `number` is after the current release.
        DamagedError: The release is damaged; or the claim is, and `number` is after the current release.
        NotEverywhereError: It is done here, but not on the remote.
    """
    folder = open_releases(settings, name)
    if number is None and rollouts.find_running_rollout(folder) is not None:
        apply_manual_action(settings, name, "return", reason or "rolled back by hand")
        return read_current(folder)
    pointer = read_current(folder)
    is_back = number is None or pointer.current is None or number <= pointer.current
    ownership.claim_ownership(settings, folder, urgent=is_back)
    finished = reconcile_rollout(settings, folder)
    if number is None and finished is not None and finished.stage == "returned" and finished.is_bad:
        _push_release(settings, folder, f"Release {finished.release} of {name} is returned.")
        return read_current(folder)
    pointer = pointer if finished is None else read_current(folder)
    if number is None:
        number = find_previous_release(folder, pointer)
    read_files(folder.release(number), read_release(folder, number).files)
    moved = move_pointer(folder, number, leave=True, seen=pointer)
    reconcile_rollout(settings, folder)  # ends a rollout of other releases than these
    _push_release(settings, folder, f"Release {number} of {name} is current.")
    return moved


def recorded_requests(settings: Settings, realtime: Realtime) -> list[bytes]:
    """Requests that the training has recorded, or a generated one."""
    file = recorded_requests_file(settings, realtime.name)
    if not file.is_file():
        return example_requests(realtime.request, realtime.candidates)
    return [text.encode() for text in json.loads(file.read_bytes())[:_REQUESTS]]


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


def _draft_release(realtime: Realtime, model: ReleasedModel, inputs: str, code: str) -> Release:
    lookups = tuple(
        LookupContract(called, each.view.name, by, columns, contract, each.max_age_h, each.view.live is not None)
        for each, (called, by, columns, contract) in zip(realtime.lookups, realtime.contracts, strict=True)
    )
    return Release(
        name=realtime.name,
        request=realtime.request,
        candidates=realtime.candidates,
        lookups=lookups,
        features=realtime.feature_names,
        transform=realtime.transform_path,
        model=model,
        output=realtime.output,
        ladder=realtime.ladder,
        deadline_ms=realtime.deadline_ms,
        on_contract=realtime.on_contract,
        on_unknown=realtime.on_unknown,
        on_nan=realtime.on_nan,
        runs=realtime.runs,
        cache_bytes=realtime.cache_bytes,
        log=realtime.log,
        description=realtime.description,
        inputs=inputs,
        created_at=current_timestamp(),
        code_version=code,
    )


def _release_result(
    realtime: Realtime, number: int, model: ModelVersion, started: float, rollout: str, *, skipped: bool = False,
    **more: Any,
) -> StageResult:  # fmt: skip
    told = {"rollout": rollout} if rollout and realtime.rollout is not None else {}
    said = {"model": {"name": model.name, "version": model.version}, "model_uri": model.uri}
    details = {"release": number, **said, **told, **more}
    return StageResult(STAGE, realtime.name, 0, time.perf_counter() - started, skipped=skipped, details=details)


def _push_release(settings: Settings, folder: ReleaseFolder, what: str) -> None:
    """Publish the change to the other installations, by the lake, and to replicas, by the remote."""
    write_to_claim(settings, folder)
    if settings.store_remote:
        with report_replica_failure(folder.name, what):
            push_if_owner(settings, folder, open_remote(settings.store_remote, settings.storage_options))
