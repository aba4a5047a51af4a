"""Computes logged answers of one release at the same versions of its stores again, and compares them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from forecache.base.errors import ForecacheError, InputError
from forecache.base.table_names import kept_name
from forecache.kit.http.problems import Problem
from forecache.plugins.parity.replay_result import AnswerDifference, ReplayResult, first_difference_of
from forecache.plugins.parity.replayed_release import (
    LiveLookups,
    LoggedAnswer,
    LookupRows,
    ReplayedRelease,
    age_of,
    compare_fallbacks,
    keys_of,
    look_up,
)
from forecache.plugins.parity.store_versions import OpenVersions, StoreVersion, VersionRows
from forecache.plugins.parity.stream_replay import StreamReplay
from forecache.realtime.release.format import LookupContract
from forecache.realtime.request.request_answer import MODEL


def live_lookup_problem(
    each: LoggedAnswer,
    lookups: Sequence[LookupContract],
    held: Mapping[str, VersionRows],
    streams: Mapping[str, StreamReplay],
) -> str:
    """Return why live look-ups cannot be repeated, a key of `replay_result.REASONS`; "" if they can."""
    if each.looks is None:
        return "not logged" if any(contract.live for contract in lookups) else ""
    for contract in lookups:
        look = each.looks.get(contract.called)
        if look is None:
            continue
        streamed = streams.get(look.view)
        reason = "live" if streamed is None else streamed.find_problem(look, held[contract.called])
        if reason or streamed is None:
            return reason
        if look.pending and not _has_bounds(each, contract, held[contract.called], streamed):
            return "pending"
    return ""


def _has_bounds(each: LoggedAnswer, contract: LookupContract, held: VersionRows, streamed: StreamReplay) -> bool:
    assert each.parsed is not None
    assert each.looks is not None
    try:
        keys = keys_of(contract, held, each.parsed)
    except InputError:
        return True  # the look-up itself finds this error, and reports it
    return streamed.find_bounds(each.looks[contract.called], keys)


_LOGGED_LATER_S = 2
"""A logged age may exceed the age at the look-up by so much."""
_REFUSED = "refused"
"""Without the reason, which would show the client's data: differences go into alerts and into a table."""
_TWICE_EVERY = 16
"""For one of so many requests the transform is called twice, and has to return the same bits."""


class AnswerGroup:
    """Compares the answers of one release at the same versions."""

    def __init__(
        self,
        replayed: ReplayedRelease,
        stores: Sequence[StoreVersion],
        versions: OpenVersions,
        streams: Mapping[str, StreamReplay],
        found: ReplayResult,
    ) -> None:
        self._replayed, self._versions, self._streams, self._found = replayed, versions, streams, found
        self._stores = {each.name: each for each in stores}
        self._release = replayed.loaded.release

    def compare(self, answers: Sequence[LoggedAnswer]) -> None:
        """Compare every answer, and count each exactly once."""
        with_features: list[LoggedAnswer] = []
        others: list[LoggedAnswer] = []
        for each in answers:
            if self._read_request(each):
                (others if each.row["features"] is None else with_features).append(each)
        for each in others:
            self._compare_answer(each, None)
        if with_features:
            self._compare_features(with_features)

    def _read_request(self, each: LoggedAnswer) -> bool:
        """Parse the request again; returns False if that has failed and the answer was counted."""
        row = each.row
        try:
            each.parsed = self._replayed.parse(row["request"])
        except Problem:
            if row["features"] is None and not self._replayed.fallbacks[-1].needs_request and row["fallback_reason"]:
                return True  # the last fallback answers without reading more than the names of the candidates
            self._count_difference(each, each.difference("request", logged="answered", offline=_REFUSED))
            return False
        except (ForecacheError, KeyError, TypeError, ValueError) as error:
            self._count_difference(
                each, each.difference("request", logged="answered", offline=f"unreadable: {type(error).__name__}")
            )
            return False
        if each.parsed.length != row["items"] and (each.parsed.length or row["scores"] is not None):
            self._count_difference(
                each, each.difference("items", logged=str(row["items"]), offline=str(each.parsed.length))
            )  # fmt: skip
            return False
        return True

    def _compare_features(self, answers: Sequence[LoggedAnswer]) -> None:
        held: dict[str, VersionRows] = {}
        for contract in self._release.lookups:
            wanted = self._find_store(contract)
            if wanted is None:
                self._found.not_recomputed["not logged"] += len(answers)
                return
            rows = self._versions.open_rows(wanted, contract.contract)
            if rows is None:
                reason = "version" if self._versions.contract_of(wanted) is None else "layout"
                self._found.not_recomputed[reason] += len(answers)
                return
            held[contract.called] = rows
        answers = self._select_comparable(answers, held)
        answers, looked_up = self._look_up_all(answers, held) if answers else ([], {})
        equal: list[np.ndarray] = []
        # In reverse order, so that state which one request leaves for the next shows as a difference.
        for place, each in reversed(list(enumerate(answers))):
            features, scores, failure = self._replayed.recompute(
                each,
                {name: of.select_request(place) for name, of in looked_up.items()},
                twice=place % _TWICE_EVERY == 0,
            )
            if failure is not None:
                self._count_difference(each, failure)
                continue
            assert features is not None
            self._found.by_model += 1
            content = each.row["features"]
            if features.tobytes() != content and self._is_near_age_limit(each):
                features, scores = self._recompute_younger(each, held, features, scores)
            if features.tobytes() == content:
                equal.append(features)
                self._compare_answer(each, scores)
            else:
                self._count_difference(each, self._compare_features_of(each, features, content))
                self._compare_scores(each, scores)
        together = np.concatenate(equal) if equal else np.empty((0, len(self._release.features)), np.float32)
        finite = np.isfinite(together).sum(0).tolist()
        for name, count in zip(self._release.features, finite, strict=True):
            self._found.feature(name).add_equal(len(together), count)

    def _find_store(self, contract: LookupContract) -> StoreVersion | None:
        """Return the version that a look-up read, of the view or of its kept contract; None if none was logged."""
        kept = self._stores.get(kept_name(contract.view, contract.contract))
        return kept or self._stores.get(contract.view)

    def _age_of(self, each: LoggedAnswer, contract: LookupContract) -> int:
        store = self._find_store(contract)
        return age_of(each.ages_s, contract.view if store is None else store.name)

    def _select_comparable(
        self, answers: Sequence[LoggedAnswer], held: Mapping[str, VersionRows]
    ) -> Sequence[LoggedAnswer]:
        """Select the answers whose look-ups of live views can be repeated; count the others."""
        found = []
        for each in answers:
            reason = live_lookup_problem(each, self._release.lookups, held, self._streams)
            if reason:
                self._found.not_recomputed[reason] += 1
            else:
                found.append(each)
        return found

    def _look_up_all(
        self, answers: Sequence[LoggedAnswer], held: Mapping[str, VersionRows]
    ) -> tuple[Sequence[LoggedAnswer], dict[str, LookupRows]]:
        """Repeat the look-ups of all answers; those whose values are no valid key are counted and left out."""
        try:
            return answers, dict(self._look_up_each(answers, held))
        except InputError:
            good = [each for each in answers if self._has_keys(each, held)]
            return good, dict(self._look_up_each(good, held)) if good else {}

    def _look_up_each(
        self, answers: Sequence[LoggedAnswer], held: Mapping[str, VersionRows]
    ) -> Iterator[tuple[str, LookupRows]]:
        requests = [each.parsed for each in answers if each.parsed is not None]
        for contract in self._release.lookups:
            ages = [self._age_of(each, contract) for each in answers]
            live = self._live_lookups(contract, answers)
            yield contract.called, look_up(contract, held[contract.called], requests, ages, live)

    def _live_lookups(self, contract: LookupContract, answers: Sequence[LoggedAnswer]) -> LiveLookups | None:
        looks = [None if each.looks is None else each.looks.get(contract.called) for each in answers]
        if all(look is None for look in looks):
            return None
        return LiveLookups(looks, self._streams[contract.view], self._stores[contract.view].as_of)

    def _has_keys(self, each: LoggedAnswer, held: Mapping[str, VersionRows]) -> bool:
        try:
            dict(self._look_up_each([each], held))
        except InputError:
            self._count_difference(each, each.difference("request", logged="answered", offline=_REFUSED))
            return False
        return True

    def _is_near_age_limit(self, each: LoggedAnswer) -> bool:
        """True if a version exceeded its maximum age at about the time of the answer."""
        return any(
            contract.max_age_h is not None
            and 0 < self._age_of(each, contract) - contract.max_age_h * 3600 <= _LOGGED_LATER_S
            for contract in self._release.lookups
        )

    def _recompute_younger(
        self, each: LoggedAnswer, held: Mapping[str, VersionRows], features: np.ndarray, scores: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Recompute with ages below the limit, since ages are logged after the answer, in whole seconds."""
        younger = LoggedAnswer(
            each.row, each.arrived_us, {name: age - _LOGGED_LATER_S for name, age in each.ages_s.items()}, each.parsed,
            each.looks,
        )  # fmt: skip
        found = {name: of.select_request(0) for name, of in self._look_up_each([younger], held)}
        again, scores_again, failure = self._replayed.recompute(younger, found, twice=False)
        if failure is None and again is not None and again.tobytes() == each.row["features"]:
            return again, scores_again
        return features, scores

    def _compare_features_of(self, each: LoggedAnswer, features: np.ndarray, content: bytes) -> AnswerDifference:
        """Add the features of a request to the figures; returns the first difference."""
        if len(content) != features.nbytes:
            return each.difference(
                "feature", "matrix", logged=f"{len(content)} bytes", offline=f"{features.nbytes} bytes"
            )
        logged = np.frombuffer(content, "<f4").reshape(features.shape)
        for number, name in enumerate(self._release.features):
            self._found.feature(name).add(logged[:, number], features[:, number])
        row, column, was, now = first_difference_of(logged, features)
        return each.difference("feature", self._release.features[column], row, was, now)

    def _compare_answer(self, each: LoggedAnswer, scores: np.ndarray | None) -> None:
        """Compare scores, fallback and order, and count the answer."""
        row = each.row
        if scores is not None and row["answered_by"] == MODEL and not np.isnan(scores).any():
            difference = self._compare_scores(each, scores)
        else:
            outcome = compare_fallbacks(
                each, self._replayed, {name: self._versions.answers(of) for name, of in self._stores.items()}, scores
            )
            if isinstance(outcome, str):
                self._found.not_recomputed[outcome] += 1
                return
            difference = outcome
        if difference is None:
            self._found.equal += 1
        else:
            self._count_difference(each, difference)

    def _compare_scores(self, each: LoggedAnswer, scores: np.ndarray | None) -> AnswerDifference | None:
        """Add the scores to the figures if all are the model's; returns the first difference."""
        row = each.row
        if scores is None or row["answered_by"] != MODEL:
            return None
        difference = each.score_difference(scores)
        if difference is None:
            self._found.scores.add_equal(len(scores), int(np.isfinite(scores).sum()))
        elif difference.name != "type":
            self._found.scores.add(np.frombuffer(row["scores"], scores.dtype), scores)
        return difference

    def _count_difference(self, each: LoggedAnswer, difference: AnswerDifference) -> None:
        self._found.add_difference(difference)
