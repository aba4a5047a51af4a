"""Counts of the present step of a rollout (requests and sums of values by key and guard), and figures from them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from forecache.files import write_durably
from forecache.realtime.release.folder import ReleaseFolder

GUARDS = ("without_model", "late", "slow", "score_level", "score_spread", "order", "outcome", "split")
"""Values that are counted of each request; `split` also of those that count for no other guard."""
GUARD = {name: place for place, name in enumerate(GUARDS)}
KEPT = 50_000
"""Most times and scores of the current release that are kept in the A/A step, for its calibration."""


def _none(*shape: int) -> Any:
    return field(default_factory=lambda: np.zeros(shape))


@dataclass(frozen=True)
class Waiting:
    """Requests whose outcome is not known yet: [n] each.

    Attributes:
        at: Microseconds since 1970.
        arm: 0 for the current release, 1 for the other arm.
    """

    request_id: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))
    bucket: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    arm: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def picked(self, rows: np.ndarray) -> "Waiting":
        return Waiting(self.request_id[rows], self.bucket[rows], self.arm[rows], self.at[rows])

    def and_(self, other: "Waiting") -> "Waiting":
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("request_id", "bucket", "arm", "at"))
        return Waiting(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Seen:
    """Counts of one step. The first axis of `n` and `x` is the arm: 0 the current release's, 1 the other one's.

    Attributes:
        step: Id of the step, by `step_id`.
        version: Delta version of the log up to which rows are counted; -1: none is.
        after: Microseconds since 1970; only requests that arrived later are counted, as a replica may have answered
            earlier ones by an earlier step.
        newest: Arrival of the newest request in any arm, in microseconds since 1970; 0: none.
        straggler: The last replica that answered by an earlier step; "" if none did.
        whys: By reason, the number of requests of each arm that the model did not answer.
        buckets: Buckets of the keys [keys], ascending.
        n, x: Numbers of requests and sums of their values, [2, keys, guards]. A value is from 0 to 1.
        times: Sums over requests by arm [2, 3]: their number, total microseconds, microseconds of the model.
        agree: Requests that both releases scored [4]: their number, the number with the same first candidate, the sum
            of the mean absolute differences of scores, the largest difference.
        kept_us, kept_scores: Times and scores of the current release in the A/A step, at most `KEPT`.
        waiting: Requests whose outcome is not known yet.
        fault: Reason why outcomes that are due could not be read; "" if they were.
    """

    step: str
    version: int = -1
    after: int = 0
    newest: int = 0
    straggler: str = ""
    whys: Mapping[str, Sequence[int]] = field(default_factory=dict)
    buckets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    n: np.ndarray = _none(2, 0, len(GUARDS))
    x: np.ndarray = _none(2, 0, len(GUARDS))
    times: np.ndarray = _none(2, 3)
    agree: np.ndarray = _none(4)
    kept_us: np.ndarray = _none(0)
    kept_scores: np.ndarray = _none(0)
    waiting: Waiting = field(default_factory=Waiting)
    fault: str = ""

    def adding(self, buckets: np.ndarray, arm: np.ndarray, values: np.ndarray) -> "Seen":
        """The counts with further requests added.

        Args:
            buckets, arm: [rows].
            values: [rows, guards]; NaN if a request does not count for a guard.
        """
        if not len(buckets):
            return self
        keys = np.union1d(self.buckets, buckets)
        n, x = (np.zeros((2, len(keys), len(GUARDS))) for _ in range(2))
        before = np.searchsorted(keys, self.buckets)
        n[:, before], x[:, before] = self.n, self.x
        place = arm * len(keys) + np.searchsorted(keys, buckets)
        for guard in range(len(GUARDS)):
            told = ~np.isnan(values[:, guard])
            where = place[told]
            n[:, :, guard] += np.bincount(where, minlength=2 * len(keys)).reshape(2, -1)
            x[:, :, guard] += np.bincount(where, values[told, guard], 2 * len(keys)).reshape(2, -1)
        return replace(self, buckets=keys, n=n, x=x)


_ARRAYS = ("buckets", "n", "x", "times", "agree", "kept_us", "kept_scores")
_WAITING = ("request_id", "bucket", "arm", "at")


def write_seen(folder: ReleaseFolder, seen: Seen) -> None:
    """Replace the stored counts; the caller holds the lock of the releases."""
    head = {name: getattr(seen, name) for name in ("step", "version", "after", "newest", "straggler", "whys", "fault")}
    buffer = io.BytesIO()
    waiting = {f"waiting_{name}": getattr(seen.waiting, name) for name in _WAITING}
    np.savez(buffer, head=np.array(json.dumps(head)), **{name: getattr(seen, name) for name in _ARRAYS}, **waiting)
    content = buffer.getvalue()
    write_durably(_file(folder), xxhash.xxh3_128_digest(content) + content)


def read_seen(folder: ReleaseFolder, step: str) -> Seen:
    """The stored counts of a step; empty ones if the file is missing, damaged or of another step."""
    try:
        whole = _file(folder).read_bytes()
    except FileNotFoundError:
        return Seen(step)
    seal, content = whole[:16], whole[16:]
    if xxhash.xxh3_128_digest(content) != seal:
        return Seen(step)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        head = json.loads(str(stored["head"]))
        if head["step"] != step:
            return Seen(step)
        waiting = Waiting(*(stored[f"waiting_{name}"] for name in _WAITING))
        return Seen(**head, **{name: stored[name] for name in _ARRAYS}, waiting=waiting)


def _file(folder: ReleaseFolder) -> Any:
    return folder.root / "ROLLOUT.seen"
