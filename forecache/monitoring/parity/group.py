"""Logged answers of one release at the same versions of its stores, computed again and compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.errors import ForecacheError, InputError
from forecache.monitoring.parity.found import Difference, Found, first_place
from forecache.monitoring.parity.lookups import LookedUp, age_of, look_up
from forecache.monitoring.parity.rungs import compare_rungs
from forecache.monitoring.parity.versions import Held, StoreVersion, Versions
from forecache.pipeline.realtime.building import Columns
from forecache.reader.http.problems import Problem
from forecache.realtime.answer.answered import MODEL
from forecache.realtime.answer.rungs import rungs_of
from forecache.realtime.log.request import parse_logged
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parse import RequestParser
from forecache.realtime.request.parsed import ParsedRequest

_TWICE_EVERY = 16
"""Of so many requests the transform of one is called twice: it has to return the same."""


class Replayed:
    """A release that computes its logged answers again.

    Attributes:
        rungs: Of its ladder below the model.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        self.loaded = loaded
        self.parser = RequestParser(loaded.release)
        self.rungs = rungs_of(loaded.release.ladder)

    def parse(self, body: bytes) -> ParsedRequest:
        return parse_logged(self.parser, self.loaded.release, body)


@dataclass(slots=True)
class Logged:
    """A logged answer as a comparison needs it; columns of the same names are those of the log.

    Attributes:
        ages_s: Of the versions, by their store's name.
        parsed: The request, read again; None where the reader did not read it either.
    """

    row: Mapping[str, Any]
    arrived_us: int
    ages_s: Mapping[str, int]
    parsed: ParsedRequest | None = None

    def difference(self, kind: str, name: str = "", place: int = 0, logged: str = "", offline: str = "") -> Difference:
        row = self.row
        return Difference(self.arrived_us, row["request_id"], row["release"], kind, name, place, logged, offline)


class Group:
    """Compares the answers of one release at the same versions.

    Args:
        stores: The versions that the answers name.
        found: What is found is added to it.
    """

    def __init__(self, replayed: Replayed, stores: Sequence[StoreVersion], versions: Versions, found: Found) -> None:
        self._replayed, self._versions, self._found = replayed, versions, found
        self._stores = {each.name: each for each in stores}
        self._release = replayed.loaded.release

    def compare(self, answers: Sequence[Logged]) -> None:
        """Compare every answer, and count each exactly once."""
        with_features, others = [], []
        for each in answers:
            if self._read(each):
                (others if each.row["features"] is None else with_features).append(each)
        for each in others:
            self._settle(each, None)
        if with_features:
            self._compare_features(with_features)

    def _read(self, each: Logged) -> bool:
        """Read the request again; False where the answer has been counted by that."""
        row = each.row
        try:
            each.parsed = self._replayed.parse(row["request"])
        except Problem as problem:
            if row["features"] is None and not self._replayed.rungs[-1].needs_request and row["why"]:
                return True  # the last rung answers without reading more than the names of the candidates
            self._differs(each, each.difference("request", logged="answered", offline=f"refused: {problem.detail}"))
            return False
        except (ForecacheError, KeyError, TypeError, ValueError) as error:
            self._differs(each, each.difference("request", logged="answered", offline=f"unreadable: {error}"))
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
        answers, looked_up = self._looked_up(answers, held)
        finite = np.zeros(len(self._release.features), np.int64)
        rows_equal = 0
        # In another order than they were answered in: what one request leaves behind shows in the next.
        for place, each in reversed(list(enumerate(answers))):
            features, scores, failure = self._recomputed(
                each, {name: of.of(place) for name, of in looked_up.items()}, twice=place % _TWICE_EVERY == 0
            )
            if failure is not None:
                self._differs(each, failure)
                continue
            assert features is not None
            self._found.by_model += 1
            content = each.row["features"]
            if features.tobytes() == content:
                finite += np.isfinite(features).sum(0)
                rows_equal += len(features)
                self._settle(each, scores)
            else:
                self._differs(each, self._features_differ(each, features, content))
                self._add_scores(each, scores)
        for number, name in enumerate(self._release.features):
            self._found.feature(name).add_equal(rows_equal, int(finite[number]))

    def _looked_up(
        self, answers: Sequence[Logged], held: Mapping[str, Held]
    ) -> tuple[Sequence[Logged], dict[str, LookedUp]]:
        """What all answers looked up; those whose values are no key are counted, and left out."""
        try:
            return answers, dict(self._look_ups(answers, held))
        except InputError:
            good = [each for each in answers if self._has_keys(each, held)]
            return good, dict(self._look_ups(good, held)) if good else {}

    def _look_ups(self, answers: Sequence[Logged], held: Mapping[str, Held]) -> Iterator[tuple[str, LookedUp]]:
        requests = [each.parsed for each in answers if each.parsed is not None]
        for contract in self._release.lookups:
            ages = [age_of(each.ages_s, contract.view) for each in answers]
            yield contract.called, look_up(contract, held[contract.called], requests, ages)

    def _has_keys(self, each: Logged, held: Mapping[str, Held]) -> bool:
        try:
            dict(self._look_ups([each], held))
        except InputError as error:
            self._differs(each, each.difference("request", logged="answered", offline=f"refused: {error}"))
            return False
        return True

    def _recomputed(
        self, each: Logged, found: Mapping[str, tuple[np.ndarray, np.ndarray]], *, twice: bool
    ) -> tuple[np.ndarray | None, np.ndarray | None, Difference | None]:
        """(features, scores, what failed): scores are None where the model gave none when the answer was made."""
        loaded, parsed = self._replayed.loaded, each.parsed
        assert parsed is not None
        part = "transform"
        try:
            views = {name: matrix for name, (matrix, _) in found.items()}
            known = {name: rows for name, (_, rows) in found.items()}
            columns = Columns(parsed.length, parsed.columns)
            features = loaded.features_of(loaded.builder.rows(columns, views, known))
            if twice and features.tobytes() != loaded.features_of(loaded.builder.rows(columns, views, known)).tobytes():
                return None, None, each.difference("transform", logged="features", offline="others at each call")
            if each.row["why"]:
                return features, None, None
            part = "model"
            scores = loaded.scores_of(features)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # code of the project: it may raise anything
            return None, None, each.difference(part, logged="an answer", offline=f"{type(error).__name__}: {error}")
        return features, scores if scores.dtype.char in "fd" else scores.astype(np.float64), None

    def _features_differ(self, each: Logged, features: np.ndarray, content: bytes) -> Difference:
        """Add the features of a request that differ to the figures; the first difference."""
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
        """Compare scores, rung and order, and count the answer."""
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
        """Add the model's scores to the figures, where all candidates have theirs from it; what differs."""
        row = each.row
        if scores is None or row["rung"] != MODEL:
            return None
        content, kind = row["scores"], row["score_dtype"]
        if content == scores.tobytes() and kind == scores.dtype.name:
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
