"""Computes logged answers of one release at the same versions of its stores again, and compares them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from forecache.errors import ForecacheError, InputError
from forecache.monitoring.parity.found import Difference, Found, first_place
from forecache.monitoring.parity.live.check import why_not
from forecache.monitoring.parity.live.streams import Streamed
from forecache.monitoring.parity.lookups import LiveLooks, LookedUp, age_of, look_up
from forecache.monitoring.parity.replayed import Logged, Replayed
from forecache.monitoring.parity.rungs import compare_rungs
from forecache.monitoring.parity.versions import Held, StoreVersion, Versions
from forecache.reader.http.problems import Problem
from forecache.realtime.answer.answered import MODEL
from forecache.realtime.release.format import LookupContract

_LOGGED_LATER_S = 2
"""A logged age may exceed the age at the look-up by so much."""
_NAME_OF = {"f": "float32", "d": "float64"}
"""Names by `dtype.char`: `dtype.name` is computed at each access, which takes longer than comparing all scores."""
_REFUSED = "refused"
"""Without the reason, which would show the client's data: differences go into alerts and into a table."""
_TWICE_EVERY = 16
"""For one of so many requests the transform is called twice, and has to return the same bits."""


class Group:
    """Compares the answers of one release at the same versions.

    Args:
        stores: The versions that the answers name.
        streams: By live view, the rows of its stream.
        found: The result to which counts and differences are added.
    """

    def __init__(
        self,
        replayed: Replayed,
        stores: Sequence[StoreVersion],
        versions: Versions,
        streams: Mapping[str, Streamed],
        found: Found,
    ) -> None:
        self._replayed, self._versions, self._streams, self._found = replayed, versions, streams, found
        self._stores = {each.name: each for each in stores}
        self._release = replayed.loaded.release

    def compare(self, answers: Sequence[Logged]) -> None:
        """Compare every answer, and count each exactly once."""
        with_features: list[Logged] = []
        others: list[Logged] = []
        for each in answers:
            if self._read(each):
                (others if each.row["features"] is None else with_features).append(each)
        for each in others:
            self._settle(each, None)
        if with_features:
            self._compare_features(with_features)

    def _read(self, each: Logged) -> bool:
        """Parse the request again; returns False if that has failed and the answer was counted."""
        row = each.row
        try:
            each.parsed = self._replayed.parse(row["request"])
        except Problem:
            if row["features"] is None and not self._replayed.rungs[-1].needs_request and row["why"]:
                return True  # the last fallback answers without reading more than the names of the candidates
            self._differs(each, each.difference("request", logged="answered", offline=_REFUSED))
            return False
        except (ForecacheError, KeyError, TypeError, ValueError) as error:
            self._differs(
                each, each.difference("request", logged="answered", offline=f"unreadable: {type(error).__name__}")
            )
            return False
        if each.parsed.length != row["items"] and (each.parsed.length or row["scores"] is not None):
            self._differs(
                each, each.difference("items", logged=str(row["items"]), offline=str(each.parsed.length))
            )  # fmt: skip
            return False
        return True

    def _compare_features(self, answers: Sequence[Logged]) -> None:
        held: dict[str, Held] = {}
        for contract in self._release.lookups:
            wanted = self._stores.get(contract.view)
            if wanted is None:
                self._found.not_recomputed["not logged"] += len(answers)
                return
            rows = self._versions.held(wanted, contract.contract)
            if rows is None:
                reason = "version" if self._versions.contract_of(wanted) is None else "layout"
                self._found.not_recomputed[reason] += len(answers)
                return
            held[contract.called] = rows
        answers = self._comparable(answers, held)
        answers, looked_up = self._looked_up(answers, held) if answers else ([], {})
        equal: list[np.ndarray] = []
        # In reverse order, so that state which one request leaves for the next shows as a difference.
        for place, each in reversed(list(enumerate(answers))):
            features, scores, failure = self._replayed.recompute(
                each, {name: of.of(place) for name, of in looked_up.items()}, twice=place % _TWICE_EVERY == 0
            )
            if failure is not None:
                self._differs(each, failure)
                continue
            assert features is not None
            self._found.by_model += 1
            content = each.row["features"]
            if features.tobytes() != content and self._is_near_a_limit(each):
                features, scores = self._a_moment_younger(each, held, features, scores)
            if features.tobytes() == content:
                equal.append(features)
                self._settle(each, scores)
            else:
                self._differs(each, self._features_differ(each, features, content))
                self._add_scores(each, scores)
        together = np.concatenate(equal) if equal else np.empty((0, len(self._release.features)), np.float32)
        finite = np.isfinite(together).sum(0).tolist()
        for name, count in zip(self._release.features, finite, strict=True):
            self._found.feature(name).add_equal(len(together), count)

    def _comparable(self, answers: Sequence[Logged], held: Mapping[str, Held]) -> Sequence[Logged]:
        """Select the answers whose look-ups of live views can be repeated; count the others."""
        found = []
        for each in answers:
            reason = why_not(each, self._release.lookups, held, self._streams)
            if reason:
                self._found.not_recomputed[reason] += 1
            else:
                found.append(each)
        return found

    def _looked_up(
        self, answers: Sequence[Logged], held: Mapping[str, Held]
    ) -> tuple[Sequence[Logged], dict[str, LookedUp]]:
        """Repeat the look-ups of all answers; those whose values are no valid key are counted and left out."""
        try:
            return answers, dict(self._look_ups(answers, held))
        except InputError:
            good = [each for each in answers if self._has_keys(each, held)]
            return good, dict(self._look_ups(good, held)) if good else {}

    def _look_ups(self, answers: Sequence[Logged], held: Mapping[str, Held]) -> Iterator[tuple[str, LookedUp]]:
        requests = [each.parsed for each in answers if each.parsed is not None]
        for contract in self._release.lookups:
            ages = [age_of(each.ages_s, contract.view) for each in answers]
            live = self._live_looks(contract, answers)
            yield contract.called, look_up(contract, held[contract.called], requests, ages, live)

    def _live_looks(self, contract: LookupContract, answers: Sequence[Logged]) -> LiveLooks | None:
        looks = [None if each.looks is None else each.looks.get(contract.called) for each in answers]
        if all(look is None for look in looks):
            return None
        return LiveLooks(looks, self._streams[contract.view], self._stores[contract.view].as_of)

    def _has_keys(self, each: Logged, held: Mapping[str, Held]) -> bool:
        try:
            dict(self._look_ups([each], held))
        except InputError:
            self._differs(each, each.difference("request", logged="answered", offline=_REFUSED))
            return False
        return True

    def _is_near_a_limit(self, each: Logged) -> bool:
        """True if a version exceeded its maximum age at about the time of the answer."""
        return any(
            contract.max_age_h is not None
            and 0 < age_of(each.ages_s, contract.view) - contract.max_age_h * 3600 <= _LOGGED_LATER_S
            for contract in self._release.lookups
        )

    def _a_moment_younger(
        self, each: Logged, held: Mapping[str, Held], features: np.ndarray, scores: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Recompute with ages below the limit, since ages are logged after the answer, in whole seconds."""
        younger = Logged(
            each.row, each.arrived_us, {name: age - _LOGGED_LATER_S for name, age in each.ages_s.items()}, each.parsed,
            each.looks,
        )  # fmt: skip
        found = {name: of.of(0) for name, of in self._look_ups([younger], held)}
        again, scores_again, failure = self._replayed.recompute(younger, found, twice=False)
        if failure is None and again is not None and again.tobytes() == each.row["features"]:
            return again, scores_again
        return features, scores

    def _features_differ(self, each: Logged, features: np.ndarray, content: bytes) -> Difference:
        """Add the features of a request to the figures; returns the first difference."""
        if len(content) != features.nbytes:
            return each.difference(
                "feature", "matrix", logged=f"{len(content)} bytes", offline=f"{features.nbytes} bytes"
            )
        logged = np.frombuffer(content, "<f4").reshape(features.shape)
        for number, name in enumerate(self._release.features):
            self._found.feature(name).add(logged[:, number], features[:, number])
        row, column, was, now = first_place(logged, features)
        return each.difference("feature", self._release.features[column], row, was, now)

    def _settle(self, each: Logged, scores: np.ndarray | None) -> None:
        """Compare scores, fallback (rung) and order, and count the answer."""
        row = each.row
        if scores is not None and row["rung"] == MODEL and not np.isnan(scores).any():
            difference = self._add_scores(each, scores)
        else:
            outcome = compare_rungs(
                each, self._replayed, {name: self._versions.answers(of) for name, of in self._stores.items()}, scores
            )
            if isinstance(outcome, str):
                self._found.not_recomputed[outcome] += 1
                return
            difference = outcome
        if difference is None:
            self._found.equal += 1
        else:
            self._differs(each, difference)

    def _add_scores(self, each: Logged, scores: np.ndarray | None) -> Difference | None:
        """Add the scores to the figures if all are the model's; returns the first difference."""
        row = each.row
        if scores is None or row["rung"] != MODEL:
            return None
        content, kind = row["scores"], row["score_dtype"]
        if content == scores.tobytes() and kind == _NAME_OF[scores.dtype.char]:
            self._found.scores.add_equal(len(scores), int(np.isfinite(scores).sum()))
            return None
        if kind != scores.dtype.name or len(content or b"") != scores.nbytes:
            return each.difference(
                "score", "type", logged=f"{len(content or b'')} bytes of {kind or 'none'}",
                offline=f"{scores.nbytes} bytes of {scores.dtype.name}",
            )  # fmt: skip
        logged = np.frombuffer(content, scores.dtype)
        self._found.scores.add(logged, scores)
        place, _, was, now = first_place(logged[:, None], scores[:, None])
        return each.difference("score", "", place, was, now)

    def _differs(self, each: Logged, difference: Difference) -> None:
        self._found.add_difference(difference)
