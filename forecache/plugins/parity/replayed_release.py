"""Computes logged answers of a release again, one request at a time, as it answered them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.plugins.parity.live.live_lookups import LiveLookup
from forecache.plugins.parity.replay_result import AnswerDifference
from forecache.realtime.answer.fallbacks import open_fallbacks
from forecache.realtime.log.logged_request import parse_logged
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.request.request_parser import RequestParser


@dataclass(slots=True)
class LoggedAnswer:
    """A logged answer.

    Attributes:
        row: The columns of the log.
        ages_s: Ages of the versions, by the name of their store.
        parsed: The request, parsed again; None if the reader did not parse it either.
        looks: The live look-ups by name; None if the log did not record them yet.
    """

    row: Mapping[str, Any]
    arrived_us: int
    ages_s: Mapping[str, int]
    parsed: ParsedRequest | None = None
    looks: Mapping[str, LiveLookup] | None = None

    def difference(
        self, kind: str, name: str = "", place: int = 0, logged: str = "", offline: str = ""
    ) -> AnswerDifference:
        row = self.row
        return AnswerDifference(self.arrived_us, row["request_id"], row["release"], kind, name, place, logged, offline)


class ReplayedRelease:
    """A release that computes its logged answers again.

    Attributes:
        rungs: Its fallbacks, in order.
    """

    def __init__(self, loaded: LoadedRelease) -> None:
        self.loaded = loaded
        self.parser = RequestParser(loaded.release)
        self.rungs = open_fallbacks(loaded.release.ladder)

    def parse(self, body: bytes) -> ParsedRequest:
        return parse_logged(self.parser, self.loaded.release, body)

    def recompute(
        self, each: LoggedAnswer, found: Mapping[str, tuple[np.ndarray, np.ndarray]], *, twice: bool
    ) -> tuple[np.ndarray | None, np.ndarray | None, AnswerDifference | None]:
        """Return (features, scores, failure); scores are None if the model gave none when the answer was made."""
        loaded, parsed = self.loaded, each.parsed
        assert parsed is not None
        part = "transform"
        try:
            views = {name: matrix for name, (matrix, _) in found.items()}
            known = {name: rows for name, (_, rows) in found.items()}
            columns = RequestArrays(parsed.length, parsed.columns)
            features = loaded.features_of(loaded.builder.build_rows(columns, views, known))
            if (
                twice
                and features.tobytes() != loaded.features_of(loaded.builder.build_rows(columns, views, known)).tobytes()
            ):
                return None, None, each.difference("transform", logged="features", offline="others at each call")
            if each.row["why"]:
                return features, None, None
            part = "model"
            scores = loaded.scores_of(features)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # code of the project: it may raise anything
            return None, None, each.difference(part, logged="an answer", offline=f"{type(error).__name__}: {error}")
        return features, scores if scores.dtype.char in "fd" else scores.astype(np.float64), None
