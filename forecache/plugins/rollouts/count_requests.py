"""Count new rows of the request log, each once even after kills, and read the outcomes of requests."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare.realtime.rollout import Outcome
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import open_if_exists, read_entry
from forecache.kit.delta.tables import open_existing
from forecache.plugins.rollouts.step_counts import (
    COLUMNS,
    GUARD,
    GUARDS,
    KEPT,
    PendingOutcomes,
    StepCounts,
    StepRows,
    place_among,
    write_counts,
)
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.rollout_state import RolloutState

if TYPE_CHECKING:
    import pyarrow as pa


MOST_PAIRS = 50_000
"""Most requests of a look that are compared: they prove enough, and take some seconds."""
_OF_FOOTRULE = 1.4
"""Factor of the footrule: two independent places of ten are 0.37 apart on average, and a value is at most 1."""


class ScorePairs:
    """Requests of one look by id. An id that occurs twice, as a client may send it, is left out."""

    def __init__(self) -> None:
        self._found: tuple[dict[str, tuple[int, np.ndarray] | None], ...] = ({}, {})

    def add(self, rows: StepRows, wanted: np.ndarray) -> None:
        """Add the wanted rows that have scores of their model."""
        scores = rows.model_scores
        for place in np.flatnonzero(wanted).tolist():
            found = self._found[int(rows.variant[place])]
            request_id = str(rows.request_id[place])
            if request_id in found:
                found[request_id] = None
            elif len(scores[place]) and len(found) < 2 * MOST_PAIRS:
                found[request_id] = (int(rows.bucket[place]), scores[place])

    def match(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the requests that both have scored: bucket, scores of the current release and of the candidate, [n]."""
        current, candidate = self._found
        num_pairs = 0
        for request_id, one in current.items():
            other = candidate.get(request_id)
            if one is None or other is None or len(one[1]) != len(other[1]):
                continue
            yield one[0], one[1], other[1]
            num_pairs += 1
            if num_pairs == MOST_PAIRS:
                return


def disorder(current: np.ndarray, candidate: np.ndarray, edges: Sequence[float]) -> float:
    """Disagreement of the order of the candidate's scores with the current release's, from 0 to 1.

    Returns:
        NaN for a single score before the deciles are known.
    """
    if len(current) == 1:
        if not edges:
            return float("nan")
        places = place_among(np.concatenate([current, candidate]), np.array(edges))
        return min(1.0, _OF_FOOTRULE * abs(float(places[0] - places[1])))
    one, other = _centred_ranks(current), _centred_ranks(candidate)
    size = float(np.sqrt((one @ one) * (other @ other)))
    if not size:  # all scores of one are equal, which agrees only with equal scores of the other
        return 0.0 if not one.any() and not other.any() else 0.5
    return float(np.clip(0.5 * (1 - (one @ other) / size), 0.0, 1.0))


def _centred_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks [n] less their mean; equal scores have the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return ranks - (len(scores) + 1) / 2


def read_outcomes(settings: Settings, outcome: Outcome, request_ids: np.ndarray) -> np.ndarray:
    """The outcome of each request, float64 [n] from 0 to `outcome.most`: the sum of its rows, 0 without any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = open_existing(settings, outcome.table, what="The table of outcomes")
    ids = pa.array(request_ids.tolist(), pa.string())
    condition = pc.is_in(pc.field(outcome.by), value_set=ids)
    rows = open_dataset(table).to_table([outcome.by, outcome.value], filter=condition)
    sums = pa.table({"id": rows.column(outcome.by), "value": rows.column(outcome.value).cast(pa.float64())})
    known = sums.group_by("id").aggregate([("value", "sum")])
    by_id = dict(zip(known.column("id").to_pylist(), known.column("value_sum").to_pylist(), strict=True))
    found = np.array([by_id.get(each) or 0.0 for each in request_ids.tolist()], np.float64)
    return np.clip(found, 0.0, outcome.most)


logger = logging.getLogger("forecache.rollout")
_BATCH_ROWS = 65_536


def logged_version(settings: Settings, name: str) -> int:
    """The newest Delta version of a model's log; -1 if there is none."""
    table = open_if_exists(settings, table_of(name))
    return -1 if table is None else int(table.version())


def step_id(state: RolloutState) -> str:
    """An id of the present step of a rollout, whose requests are counted together."""
    return f"{state.started_at} {state.release} {len(state.steps)} {state.step.since}"


def count_new_requests(settings: Settings, state: RolloutState, seen: StepCounts, *, now: datetime) -> StepCounts:
    """The counts of the present step, with the rows added that were committed since `seen`."""
    begin = to_microseconds(datetime.fromisoformat(state.step.since))
    if seen.after < begin:
        seen = replace(seen, after=begin)
    seen, batches = _read_new_batches(settings, state, seen)
    pairs = ScorePairs()
    for batch in batches:
        seen = _add_rows(seen, StepRows(batch, state), state, pairs)
    seen = _add_order(seen, pairs, state)
    outcome = state.plan.get("outcome")
    return seen if outcome is None else _add_outcomes(settings, seen, Outcome(**outcome), now)


def to_microseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def _add_rows(seen: StepCounts, rows: StepRows, state: RolloutState, pairs: ScorePairs) -> StepCounts:
    if not len(rows):
        return seen
    seen = replace(seen, newest=max(seen.newest, int(rows.at.max())))
    late = ~rows.fits & (rows.at > seen.after)
    if late.any():
        # A replica answered by an earlier step: requests until then are of two splits, and are not compared.
        last = int(np.flatnonzero(late)[np.argmax(rows.at[late])])
        seen = StepCounts(
            seen.step, seen.version, int(rows.at[last]), seen.newest, rows.replica[last],
            kept_us=seen.kept_us, kept_scores=seen.kept_scores,
        )  # fmt: skip
    good = rows.counts & (rows.at > seen.after)
    values, there = rows.guard_values(state), good & ~rows.loading
    times = seen.times.copy()
    for variant in (0, 1):
        of_variant = there & rows.alike & (rows.variant == variant)
        times[variant] += (of_variant.sum(), rows.total_us[of_variant].sum(), rows.model_us[of_variant].sum())
    more: dict[str, Any] = {"times": times, "whys": _count_reasons(seen, rows, there & rows.alike & ~rows.by_model)}
    if state.stage == "aa" and len(seen.kept_us) < KEPT:
        more["kept_us"] = np.concatenate([seen.kept_us, rows.total_us[good]])[:KEPT]
        more["kept_scores"] = np.concatenate([seen.kept_scores, rows.select_scores(good)])[:KEPT]
    if state.stage == "shadow":
        pairs.add(rows, there)
    if state.stage == "canary" and state.plan.get("outcome") is not None:
        waiting = PendingOutcomes(rows.request_id[there], rows.bucket[there], rows.variant[there], rows.at[there])
        more["waiting"] = seen.waiting.concatenate(waiting)
    return replace(seen, **more).add_requests(rows.bucket[good], rows.variant[good], values[good])


def _add_order(seen: StepCounts, pairs: ScorePairs, state: RolloutState) -> StepCounts:
    """The counts with the agreement of both releases added, for requests that both have scored."""
    agree, buckets, values = seen.agree.copy(), [], []
    for bucket, current, candidate in pairs.match():
        apart = np.abs(candidate - current)
        agree[:3] += (1, np.argmax(candidate) == np.argmax(current), apart.mean())
        agree[3] = max(agree[3], apart.max())
        buckets.append(bucket)
        values.append(disorder(current, candidate, state.edges))
    found = np.full((2 * len(values), len(GUARDS)), np.nan)
    found[:, GUARD["order"]] = [*(0.0 * np.array(values)), *values]  # the current release is in its own order
    variant = np.repeat([0, 1], len(values))
    return replace(seen, agree=agree).add_requests(np.tile(np.array(buckets, np.uint64), 2), variant, found)


def _count_reasons(seen: StepCounts, rows: StepRows, without: np.ndarray) -> dict[str, list[int]]:
    """Numbers of requests without an answer of the model, by reason and variant."""
    found = {why: list(counts) for why, counts in seen.whys.items()}
    for place in np.flatnonzero(without).tolist():
        found.setdefault(rows.why[place] or "other", [0, 0])[int(rows.variant[place])] += 1
    return found


def _add_outcomes(settings: Settings, seen: StepCounts, outcome: Outcome, now: datetime) -> StepCounts:
    """The counts with the outcomes of requests whose horizon has passed; these wait while the table cannot be read."""
    due = seen.waiting.at <= to_microseconds(now - timedelta(hours=outcome.horizon_h))
    if not due.any():
        return seen
    ripe = seen.waiting.select(due)
    values = np.full((int(due.sum()), len(GUARDS)), np.nan)
    try:
        values[:, GUARD["outcome"]] = read_outcomes(settings, outcome, ripe.request_id) / outcome.most
    except Exception as error:  # of a table that others own: the other guards still have to judge
        trace = None if isinstance(error, ForecacheError) else error
        logger.error("The outcomes in %s cannot be read: %s", outcome.table, error, exc_info=trace)
        # The cause may have content that no status page should show.
        return replace(seen, fault="The outcomes cannot be read; the log of the controller says why.")
    return replace(seen, waiting=seen.waiting.select(~due), fault="").add_requests(ripe.bucket, ripe.variant, values)


def _read_new_batches(
    settings: Settings, state: RolloutState, seen: StepCounts
) -> "tuple[StepCounts, Iterator[pa.RecordBatch]]":
    """The rows added to the log since `seen`; if these are not known, empty counts and all rows of the step."""
    table = open_if_exists(settings, table_of(state.name))
    if table is None:
        return seen, iter(())
    newest = table.version()
    if newest == seen.version:
        return seen, iter(())
    if 0 <= seen.version < newest:
        try:
            return replace(seen, version=newest), _read_added_rows(
                settings, state.name, range(seen.version + 1, newest + 1)
            )
        except FileNotFoundError:
            pass  # compacted and removed since
    anew = StepCounts(seen.step, newest, to_microseconds(datetime.fromisoformat(state.step.since)))
    first = datetime.fromtimestamp(anew.after / 1e6, timezone.utc).date()
    days = [first + timedelta(days=past) for past in range((datetime.now(timezone.utc).date() - first).days + 2)]
    return anew, read_log(settings, state.name, days=days, columns=COLUMNS, version=newest)


def _read_added_rows(settings: Settings, name: str, versions: range) -> "Iterator[pa.RecordBatch]":
    """The rows that versions of the log added. Raises `FileNotFoundError`: the files of a version were removed."""
    import pyarrow.parquet as pq

    table = table_of(name)
    filesystem = place_of(settings, table).open()
    actions = (action for version in versions for action in read_entry(filesystem, version, table))
    entries = [action["add"] for action in actions if "add" in action]
    paths = [unquote(each["path"]) for each in entries if each.get("dataChange", True)]
    files = [pq.ParquetFile(filesystem.open_input_file(path)) for path in paths]
    return (
        batch for file in files for batch in file.iter_batches(_BATCH_ROWS, columns=list(COLUMNS), use_threads=False)
    )


def begin_counts(folder: ReleaseFolder, rollout: RolloutState, version: int) -> None:
    """Count the requests of a rollout's first step from the commit of the request log after a version."""
    write_counts(folder, StepCounts(step_id(rollout), version))
