"""Counts of the present step of a rollout (requests and sums of values by key and guard), and figures from them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from forecache.base.files import write_durably
from forecache.realtime.log.answer_log import BUCKETS, bucket_of
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.rollout_state import RolloutState
from forecache.realtime.request.request_answer import MODEL

if TYPE_CHECKING:
    import pyarrow as pa


GUARDS = ("without_model", "late", "slow", "score_level", "score_spread", "order", "outcome", "split")
"""Values that are counted of each request; `split` also of those that count for no other guard."""
GUARD = {name: place for place, name in enumerate(GUARDS)}
KEPT = 50_000
"""Most times and scores of the current release that are kept in the A/A step, for its calibration."""


def _zeros(*shape: int) -> Any:
    return field(default_factory=lambda: np.zeros(shape))


@dataclass(frozen=True)
class PendingOutcomes:
    """Requests whose outcome is not known yet: [n] each. `variant`: 0 for the current release, 1 for the other."""

    request_id: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))
    bucket: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    variant: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # microseconds since 1970

    def select(self, rows: np.ndarray) -> "PendingOutcomes":
        return PendingOutcomes(self.request_id[rows], self.bucket[rows], self.variant[rows], self.at[rows])

    def concatenate(self, other: "PendingOutcomes") -> "PendingOutcomes":
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("request_id", "bucket", "variant", "at"))
        return PendingOutcomes(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class StepCounts:
    """Counts of one step. The first axis of `n` and `x` is the variant: 0 the current release's, 1 the other one's.

    Attributes:
        after: Microseconds since 1970; only requests that arrived later are counted, as a replica may have answered
            earlier ones by an earlier step.
        whys: By reason, the number of requests of each variant that the model did not answer.
        n, x: Numbers of requests and sums of their values, [2, keys, guards]. A value is from 0 to 1.
        times: Sums over requests by variant [2, 3]: their number, total microseconds, microseconds of the model.
        agree: Requests that both releases scored [4]: their number, the number with the same first candidate, the sum
            of the mean absolute differences of scores, the largest difference.
        kept_us, kept_scores: Times and scores of the current release in the A/A step, at most `KEPT`.
    """

    step: str  # id of the step, by `step_id`
    version: int = -1  # Delta version of the log up to which rows are counted; -1: none is
    after: int = 0
    newest: int = 0  # arrival of the newest request in any variant, in microseconds since 1970; 0: none
    straggler: str = ""  # the last replica that answered by an earlier step; "" if none did
    whys: Mapping[str, Sequence[int]] = field(default_factory=dict)
    buckets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))  # buckets of the keys [keys], ascending
    n: np.ndarray = _zeros(2, 0, len(GUARDS))
    x: np.ndarray = _zeros(2, 0, len(GUARDS))
    times: np.ndarray = _zeros(2, 3)
    agree: np.ndarray = _zeros(4)
    kept_us: np.ndarray = _zeros(0)
    kept_scores: np.ndarray = _zeros(0)
    waiting: PendingOutcomes = field(default_factory=PendingOutcomes)  # requests whose outcome is not known yet
    fault: str = ""  # reason why outcomes that are due could not be read; "" if they were

    def add_requests(self, buckets: np.ndarray, variant: np.ndarray, values: np.ndarray) -> "StepCounts":
        """The counts with further requests added.

        Args:
            buckets, variant: [rows].
            values: [rows, guards]; NaN if a request does not count for a guard.
        """
        if not len(buckets):
            return self
        keys = np.union1d(self.buckets, buckets)
        n, x = (np.zeros((2, len(keys), len(GUARDS))) for _ in range(2))
        before = np.searchsorted(keys, self.buckets)
        n[:, before], x[:, before] = self.n, self.x
        place = variant * len(keys) + np.searchsorted(keys, buckets)
        for guard in range(len(GUARDS)):
            told = ~np.isnan(values[:, guard])
            where = place[told]
            n[:, :, guard] += np.bincount(where, minlength=2 * len(keys)).reshape(2, -1)
            x[:, :, guard] += np.bincount(where, values[told, guard], 2 * len(keys)).reshape(2, -1)
        return replace(self, buckets=keys, n=n, x=x)


_ARRAYS = ("buckets", "n", "x", "times", "agree", "kept_us", "kept_scores")
_WAITING = ("request_id", "bucket", "variant", "at")


def write_counts(folder: ReleaseFolder, seen: StepCounts) -> None:
    """Replace the stored counts; the caller holds the lock of the releases."""
    head = {name: getattr(seen, name) for name in ("step", "version", "after", "newest", "straggler", "whys", "fault")}
    buffer = io.BytesIO()
    waiting = {f"waiting_{name}": getattr(seen.waiting, name) for name in _WAITING}
    np.savez(buffer, head=np.array(json.dumps(head)), **{name: getattr(seen, name) for name in _ARRAYS}, **waiting)
    content = buffer.getvalue()
    write_durably(_counts_file(folder), xxhash.xxh3_128_digest(content) + content)


def read_counts(folder: ReleaseFolder, step: str) -> StepCounts:
    """The stored counts of a step; empty ones if the file is missing, damaged or of another step."""
    try:
        whole = _counts_file(folder).read_bytes()
    except FileNotFoundError:
        return StepCounts(step)
    seal, content = whole[:16], whole[16:]
    if xxhash.xxh3_128_digest(content) != seal:
        return StepCounts(step)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        head = json.loads(str(stored["head"]))
        if head["step"] != step:
            return StepCounts(step)
        waiting = PendingOutcomes(*(stored[f"waiting_{name}"] for name in _WAITING))
        return StepCounts(**head, **{name: stored[name] for name in _ARRAYS}, waiting=waiting)


def _counts_file(folder: ReleaseFolder) -> Any:
    return folder.root / "ROLLOUT.seen"


_EDGES = np.arange(1, 10) / 10
_SLOW_SHARE, _OF_DEADLINE = 0.95, 0.25


def calibrate_state(state: RolloutState, seen: StepCounts) -> RolloutState:
    """The state with the limit of slow answers and deciles of scores, once the A/A step has half of its requests."""
    if state.stage != "aa" or state.edges or len(seen.kept_us) < max(1, state.plan["requests"] // 2):
        return state
    slow_ms = state.plan["guards"]["slow_ms"]
    usual = float(np.quantile(seen.kept_us, _SLOW_SHARE))
    slow_us = slow_ms * 1e3 if slow_ms is not None else max(usual, _OF_DEADLINE * 1e3 * state.plan["deadline_ms"])
    scores = seen.kept_scores
    edges = tuple(float(edge) for edge in np.quantile(scores, _EDGES)) if len(scores) else ()
    return replace(state, slow_us=slow_us, edges=edges)


def step_figures(seen: StepCounts) -> dict[str, float]:
    """Figures of a step that are reported besides its guards."""
    shown: dict[str, float] = {}
    for variant, name in enumerate(("current", "candidate")):
        count, total_us, model_us = seen.times[variant]
        if count:
            shown |= {f"{name}_total_ms": total_us / count / 1e3, f"{name}_model_ms": model_us / count / 1e3}
    count, same, apart, largest = seen.agree
    if count:
        shown |= {"compared_requests": count, "same_first_share": same / count}
        shown |= {"mean_score_difference": apart / count, "largest_score_difference": largest}
    for why, counts in sorted(seen.whys.items()):
        shown |= {
            f"{name}_without_model_{why}": counts[variant] for variant, name in enumerate(("current", "candidate"))
        }
    shown["keys"] = float(len(seen.buckets))
    if seen.newest:
        shown["newest_request_at"] = seen.newest / 1e6
    return {name: float(round(value, 6)) for name, value in shown.items()}


COLUMNS = (
    "request_id", "arrived_at", "key", "items", "release", "variant", "scores", "score_dtype", "answered_by",
    "fallback_reason", "late",
    "model_us", "total_us", "replica",
)  # fmt: skip


class StepRows:
    """Rows of the log that belong to a step, as arrays [rows].

    Attributes:
        variant: 0: the current release's, 1: the other one.
        fits: The variant is the one that the step assigns to the row's key.
        counts: The row is compared; in the shadow step, rows of the share are.
        by_model: The model of the variant's release gave the whole answer, or the request had no items.
        loading: The current release answered for a candidate that was not loaded yet.
        alike: The release was placed as that of the other variant: a canary runs in processes of its own, and its
            times, and the requests that it had no time for, are compared with the control alone.
        why: Reason why the model did not answer; "" also if its scores were no numbers, or another release answered.
    """

    def __init__(self, batch: "pa.RecordBatch", state: RolloutState) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        variants = ("current", state.stage, *(("loading", "control") if state.stage == "canary" else ()))
        batch = batch.filter(pc.is_in(batch.column("variant"), pa.array(variants)))
        column = {name: batch.column(name) for name in batch.schema.names}
        self.request_id = np.array(column["request_id"].to_pylist(), dtype="U")
        self.at = np.asarray(column["arrived_at"].cast(pa.int64()))
        self.variant = np.asarray(pc.invert(pc.is_in(column["variant"], pa.array(("current", "control"))))).astype(
            np.int64
        )
        self.alike = np.ones(len(self.variant), np.bool_)
        if state.stage == "canary":
            self.alike = ~np.asarray(pc.equal(column["variant"], "current")).astype(bool)
        self.loading = np.asarray(pc.equal(column["variant"], "loading")).astype(bool)
        self.bucket = _buckets(column["key"].to_pylist(), state.salt)
        # The same integer comparison as in serving; a float has not enough digits.
        in_share = self.bucket < np.uint64(min(int(state.share * BUCKETS), BUCKETS - 1))
        is_shadow = state.stage == "shadow"
        self.fits = np.ones(len(self.variant), np.bool_) if is_shadow else in_share == (self.variant == 1)
        self.counts = in_share if is_shadow else self.fits
        release = np.asarray(column["release"].fill_null(-1))
        meant = np.where((self.variant == 1) & (state.stage != "aa"), state.release, state.current)
        self.why: Sequence[str] = column["fallback_reason"].to_pylist()
        of_model = pc.or_(pc.equal(column["answered_by"], MODEL), pc.equal(column["items"], 0))
        of_model = pc.and_(of_model, pc.equal(column["fallback_reason"], "")).fill_null(False)
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
