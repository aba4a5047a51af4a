"""Values of the guards for rows of the request log."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.plugins.rollouts.step_counts import GUARD, GUARDS
from forecache.realtime.log.logged_request import BUCKETS, bucket_of
from forecache.realtime.release.rollout_state import RolloutState
from forecache.realtime.request.request_answer import MODEL

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "request_id", "arrived_at", "key", "items", "release", "arm", "scores", "score_dtype", "rung", "why", "late",
    "model_us", "total_us", "replica",
)  # fmt: skip


class StepRows:
    """Rows of the log that belong to a step, as arrays [rows].

    Attributes:
        arm: 0: the current release's, 1: the other one.
        fits: The arm is the one that the step assigns to the row's key.
        counts: The row is compared; in the shadow step, rows of the share are.
        by_model: The model of the arm's release gave the whole answer, or the request had no items.
        loading: The current release answered for a candidate that was not loaded yet.
        alike: The release was placed as that of the other arm: a canary runs in processes of its own, and its times,
            and the requests that it had no time for, are compared with the control alone.
        why: Reason why the model did not answer; "" also if its scores were no numbers, or another release answered.
    """

    def __init__(self, batch: "pa.RecordBatch", state: RolloutState) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        arms = ("current", state.stage, *(("loading", "control") if state.stage == "canary" else ()))
        batch = batch.filter(pc.is_in(batch.column("arm"), pa.array(arms)))
        column = {name: batch.column(name) for name in batch.schema.names}
        self.request_id = np.array(column["request_id"].to_pylist(), dtype="U")
        self.at = np.asarray(column["arrived_at"].cast(pa.int64()))
        self.arm = np.asarray(pc.invert(pc.is_in(column["arm"], pa.array(("current", "control"))))).astype(np.int64)
        self.alike = np.ones(len(self.arm), np.bool_)
        if state.stage == "canary":
            self.alike = ~np.asarray(pc.equal(column["arm"], "current")).astype(bool)
        self.loading = np.asarray(pc.equal(column["arm"], "loading")).astype(bool)
        self.bucket = _buckets(column["key"].to_pylist(), state.salt)
        # The same integer comparison as in serving; a float has not enough digits.
        in_share = self.bucket < np.uint64(min(int(state.share * BUCKETS), BUCKETS - 1))
        is_shadow = state.stage == "shadow"
        self.fits = np.ones(len(self.arm), np.bool_) if is_shadow else in_share == (self.arm == 1)
        self.counts = in_share if is_shadow else self.fits
        release = np.asarray(column["release"].fill_null(-1))
        meant = np.where((self.arm == 1) & (state.stage != "aa"), state.release, state.current)
        self.why: Sequence[str] = column["why"].to_pylist()
        of_model = pc.or_(pc.equal(column["rung"], MODEL), pc.equal(column["items"], 0))
        of_model = pc.and_(of_model, pc.equal(column["why"], "")).fill_null(False)
        self.by_model = np.asarray(of_model).astype(bool) & (release == meant)
        self.late = np.asarray(column["late"]).astype(np.float64)
        self.total_us = np.asarray(column["total_us"].fill_null(0)).astype(np.float64)
        self.model_us = np.asarray(column["model_us"].fill_null(0)).astype(np.float64)
        self.scores = column["scores"].to_pylist()
        self.score_dtype = column["score_dtype"].to_pylist()
        self.replica: Sequence[str] = column["replica"].to_pylist()

    def __len__(self) -> int:
        return len(self.at)

    def guard_values(self, state: RolloutState) -> np.ndarray:
        """Value of each row for each guard, [rows, guards] from 0 to 1; NaN if it does not count for the guard."""
        found = np.full((len(self), len(GUARDS)), np.nan)
        found[:, GUARD["split"]] = 0.0
        says = self.alike & ~self.loading
        found[:, GUARD["without_model"]] = np.where(says, ~self.by_model, np.nan)
        if state.stage != "shadow":
            found[:, GUARD["late"]] = np.where(says, self.late, np.nan)
            if state.slow_us:
                found[:, GUARD["slow"]] = np.where(says, self.total_us > state.slow_us, np.nan)
        if state.edges:
            level, spread = _score_places(self.model_scores, np.array(state.edges), len(self))
            found[:, GUARD["score_level"]], found[:, GUARD["score_spread"]] = level, spread
        return found

    def select_scores(self, rows: np.ndarray) -> np.ndarray:
        """The scores of the rows of a mask, concatenated."""
        picked = [each for each, wanted in zip(self.model_scores, rows, strict=True) if wanted and len(each)]
        return np.concatenate(picked) if picked else np.zeros(0)

    @cached_property
    def model_scores(self) -> list[np.ndarray]:
        """The scores of each row by the model of its release, float64; empty if it gave none."""
        none = np.zeros(0)
        found = []
        for content, dtype, counts in zip(self.scores, self.score_dtype, self.by_model, strict=True):
            scores = np.frombuffer(content, dtype).astype(np.float64) if counts and content else none
            found.append(scores if np.isfinite(scores).all() else scores[np.isfinite(scores)])
        return found


def _buckets(keys: Sequence[Any], salt: bytes) -> np.ndarray:
    known: dict[Any, int] = {}
    for key in set(keys):
        known[key] = bucket_of((key or "").encode(), salt)
    return np.array([known[key] for key in keys], np.uint64)


def place_among(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Quantile of scores [n] among those of the current release, from 0 to 1."""
    return (np.searchsorted(edges, scores, "left") + np.searchsorted(edges, scores, "right")) / (2 * len(edges))


def _score_places(scores: Sequence[np.ndarray], edges: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean quantile of each row's scores among the current release's, from 0 to 1, and mean distance from 0.5."""
    lengths = np.array([len(each) for each in scores], np.int64)
    flat = np.concatenate(scores) if len(scores) else np.zeros(0)
    place = place_among(flat, edges)
    row = np.repeat(np.arange(rows), lengths)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.bincount(row, place, rows) / lengths
        spread = np.bincount(row, np.abs(2 * place - 1), rows) / lengths
    return level, spread
