"""The fallbacks (`ladder=` of a declaration; JSON and metrics say "rung"): scores from published stores, or none."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from forecache.pipeline.realtime import ladder
from forecache.reader.versions.answers import Answers
from forecache.reader.versions.live import NoVersion
from forecache.realtime.lookups.keys import keys_of
from forecache.realtime.request.parsed import ParsedRequest
from forecache.store import Snapshot

logger = logging.getLogger("forecache.realtime")
Served = Mapping[str, Answers]


class Unavailable(Exception):
    """A store of the fallback has no version that may be read; the next fallback answers."""


class Rung(Protocol):
    """A fallback, which answers if the model cannot.

    Attributes:
        name: As in answers and metrics.
        needs_request: False if the names of the candidates are enough.
    """

    name: str
    needs_request: bool

    def scores(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray | None:
        """Return scores [length], NaN for none; None: candidates stay in the order given.

        Args:
            now: Unix time.
            used: The versions that are read are added by store name.

        Raises:
            FallbackUnavailable: It cannot answer now.
        """


def rungs_of(declared: Sequence[ladder.Rung]) -> tuple[Rung, ...]:
    """Make the declared fallbacks, from the best to the last, which always answers."""
    return tuple(_KINDS[type(each)](each) for each in declared)


class _DotProduct:
    name, needs_request = "dot_product", True

    def __init__(self, declared: ladder.DotProduct) -> None:
        self._declared = declared
        self._user, self._item = _Numbers(declared.user), _Numbers(declared.item)

    def scores(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray | None:
        users, items = self._user.rows(request, served, now, used), self._item.rows(request, served, now, used)
        stores = (self._declared.user.store, self._declared.item.store)
        # Vectors of two as-of dates have different axes: their product means nothing while one store is ahead.
        if users.shape[1] != items.shape[1] or len({used[store].manifest.as_of for store in stores}) > 1:
            raise Unavailable
        return np.einsum("ij,ij->i", np.broadcast_to(users, (len(items), users.shape[1])), items)


class _LastNight:
    name, needs_request = "last_night", True

    def __init__(self, declared: ladder.LastNight) -> None:
        self._of = _Numbers(declared.of)

    def scores(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray | None:
        rows = self._of.rows(request, served, now, used)
        if rows.shape[1] != 1:
            raise Unavailable
        return rows[:, 0] if len(rows) == request.length else rows[:, 0].repeat(request.length)


class _Default:
    name, needs_request = "default", False

    def __init__(self, declared: ladder.Default) -> None:
        self._value = float(declared.value)

    def scores(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray | None:
        return np.full(request.length, self._value)


class _OrderGiven:
    name, needs_request = "order_given", False

    def __init__(self, declared: ladder.OrderGiven) -> None: ...

    def scores(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray | None:
        return None


_KINDS: dict[type, Any] = {
    ladder.DotProduct: _DotProduct,
    ladder.LastNight: _LastNight,
    ladder.Default: _Default,
    ladder.OrderGiven: _OrderGiven,
}


class _Numbers:
    """Reads numbers of a store by fields of a request."""

    def __init__(self, declared: ladder.Stored) -> None:
        self._declared = declared
        self._bound: tuple[Answers, list[int], str] | None = None
        self._told = False

    def rows(self, request: ParsedRequest, served: Served, now: float, used: dict[str, Answers]) -> np.ndarray:
        """Read floats [n, d], or [1, d] if the key is of the request alone; NaN for a key without a row."""
        declared = self._declared
        answers = served.get(declared.store)
        # A store on another machine may be the reason for the fallback; waiting for it would block other requests.
        if answers is None or not isinstance(answers.snapshot, (Snapshot, NoVersion)):
            if answers is not None and not self._told:
                self._told = True
                logger.warning(
                    "The rung that reads %s is left out: this reader has that store in Redis, and rungs read stores on "
                    "their own machine only. Bring it here from the remote: `forecache pull %s`.",
                    *(declared.store, declared.store),
                )
            raise Unavailable
        if not answers.valid_from <= now < answers.valid_until:
            answers.refresh(now)
        if answers.refused:
            raise Unavailable
        if self._bound is None or self._bound[0] is not answers:
            self._bound = (answers, *_place(answers, declared.field))
        _, places, field = self._bound
        keys = keys_of(answers.manifest.key, declared.key, request)
        used[declared.store] = answers
        if isinstance(answers.snapshot, Snapshot) and answers.manifest.is_packed:
            matrix: np.ndarray = answers.snapshot.matrix(keys)[0]
            return matrix if len(places) == matrix.shape[1] else matrix[:, places]
        found = answers.rows(keys)
        return np.array([[np.nan if row is None else _number(row[field])] for row in found])


def _place(answers: Answers, field: str) -> tuple[list[int], str]:
    """Find the columns of a field in a packed row ([] for JSON rows), and the field's name."""
    manifest = answers.manifest
    if manifest.is_packed:
        own = (field, f"{field}_")
        places = [
            place for place, name in enumerate(manifest.columns)
            if not field or name == field or (name.startswith(own[1]) and name.removeprefix(own[1]).isdecimal())
        ]  # fmt: skip
        if places:
            return places, field
    elif (field or len(manifest.field_names) == 1) and (field in manifest.field_names or not field):
        return [], field or manifest.field_names[0]
    raise Unavailable


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
