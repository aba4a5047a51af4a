"""Rollouts made in milliseconds: two releases, a state, and rows of a request log as readers would write them."""

import shutil
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
from release_support import make_release, move_state

from forecache.base.settings import Settings
from forecache.declare import Guards, Log, Rollout
from forecache.kit.delta.tables import append_rows
from forecache.plugins.rollouts.controller import advance_rollout
from forecache.plugins.rollouts.traffic_split import control_share
from forecache.realtime.log.answer_log import BUCKETS, bucket_of
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import schema, table_of
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.rollout_state import RolloutState, RolloutStep, read_rollout

LOG = Log("household_id")
NAME = "ranking"
BEGAN = datetime(2026, 3, 1, 8, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
QUICK = Rollout(shares=(0.2, 0.5), shadow_share=0.5, requests=100, hours=0.0, guards=Guards(slow_ms=20.0))


def two_releases(settings: Settings, **changes: Any) -> None:
    """Releases 1, which is current, and 2, with `changes`."""
    make_release(settings, version=1, log=LOG)
    make_release(settings, version=2, current=False, **{"log": LOG, **changes})


def begin(settings: Settings, rollout: Rollout = QUICK, *, at: datetime = BEGAN, **changes: Any) -> RolloutState:
    """The rollout of release 2 beside release 1 at its first step, or as `changes` say."""
    stage, share = changes.pop("stage", "aa"), changes.pop("share", rollout.aa_share)
    plan = {**asdict(rollout), "deadline_ms": 50.0}
    state = RolloutState(
        NAME,
        changes.pop("release", 2),
        changes.pop("current", 1),
        stage,
        share,
        at.isoformat(),
        plan,
        steps=(RolloutStep(stage, share, at.isoformat()),),
        **changes,
    )
    begun = move_state(settings, NAME, lambda known: replace(known, rollout=state)).rollout
    assert begun is not None
    return begun


def state_of(settings: Settings) -> RolloutState:
    state = read_rollout(open_releases(settings, NAME))
    assert state is not None
    return state


def log_rows(
    settings: Settings,
    count: int,
    *,
    at: datetime,
    keys: int = 400,
    first: int = 0,
    seed: int = 1,
    candidate: dict[str, Any] | None = None,
    control: dict[str, Any] | None = None,
    state: RolloutState | None = None,
    request_id: str = "",
) -> list[dict[str, Any]]:
    """Append what replicas log of so many requests of the present step, a millisecond apart.

    Args:
        first: Number of the first request.
        candidate: How answers of the other variant differ: `score` is added to each score, `release`, `why`, `late` and
            `total_us` take the place of what a good one has, `noise` replaces its scores by others of
            the same distribution.
        control: How answers of the control differ.
        request_id: Of all requests; "": each has its own.
    """
    state = state or state_of(settings)
    generator = np.random.default_rng([seed, first])
    rows: list[dict[str, Any]] = []
    for number in range(first, first + count):
        key = str(int(generator.integers(keys)))
        bucket = bucket_of(key.encode(), state.salt)
        in_share = bucket < int(state.share * BUCKETS)
        in_control = state.stage == "canary" and not in_share and bucket < control_share(state.share) * BUCKETS
        scores = generator.normal(0, 1, 5)
        row = {
            "request_id": request_id or f"r{number}", "day": at.date(),
            "arrived_at": at + timedelta(milliseconds=number - first),
            "key": key, "items": 5, "release": 1, "model_version": 1, "answered_by": "model", "fallback_reason": "",
            "variant": "control" if in_control else "current",
            "score_dtype": "<f8", "late": False, "deadline_ms": 50.0, "replica": "a:1#0",
            "total_us": int(generator.integers(300, 900)), "model_us": 50, "warnings": [],
        }  # fmt: skip
        other = {"release": 1 if state.stage == "aa" else 2, "variant": state.stage}
        if in_share and state.stage == "shadow":
            rows.append({**row, "scores": scores.tobytes()})
        if in_share:
            told = dict(candidate or {}) if state.stage != "aa" else {}
            scores = (generator.normal(0, 1, 5) if told.pop("noise", False) else scores) + told.pop("score", 0.0)
            row |= {**other, **told}
        elif in_control:
            row |= control or {}
        row["scores"] = None if row["fallback_reason"] else scores.tobytes()
        rows.append(row)
    append_rows(settings, table_of(NAME), pa.Table.from_pylist(rows, schema=schema()), partition_by=("day",))
    return rows


def looked(settings: Settings, *, after: timedelta = MINUTE) -> RolloutState:
    """The state after a look some time after the present step began."""
    found = advance_rollout(settings, NAME, at=datetime.fromisoformat(state_of(settings).step.since) + after)
    assert found is not None
    return found.state


def answered(settings: Settings, count: int = 600, **told: Any) -> None:
    """Requests of the present step, from a second after it began."""
    log_rows(settings, count, at=datetime.fromisoformat(state_of(settings).step.since) + timedelta(seconds=1), **told)


def until(settings: Settings, stage: str) -> RolloutState:
    """Answer well until a stage."""
    for turn in range(5):
        if state_of(settings).stage == stage:
            break
        answered(settings, first=1000 * turn)
        looked(settings)
    state = state_of(settings)
    assert state.stage == stage, state.why
    return state


def logged_rows(settings: Settings) -> list[dict[str, Any]]:
    return [row for batch in read_log(settings, NAME) for row in batch.to_pylist()]


def replace_log(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Log these rows alone."""
    shutil.rmtree(settings.table_uri(table_of(NAME)))
    append_rows(settings, table_of(NAME), pa.Table.from_pylist(rows, schema=schema()), partition_by=("day",))
