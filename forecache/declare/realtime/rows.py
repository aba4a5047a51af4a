"""The rows of one request, the argument of a transform: the same in training, in the reader and in a replay."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Rows:
    """One request: a row for each candidate, or one row if it has none.

    Arrays are read-only. A field of the request and a look-up by such fields alone have the same value in every row.
    """

    __slots__ = ("_columns", "_features", "_found", "_length", "_views")

    def __init__(
        self,
        length: int,
        columns: "Mapping[str, np.ndarray]",
        views: "Mapping[str, np.ndarray]",
        found: "Mapping[str, np.ndarray]",
        features: Mapping[str, Mapping[str, int]],
    ) -> None:
        """
        Args:
            columns: By field, its values [n], or [1] if it is the same in all rows; see `RequestField`.
            views: By look-up, float32 [n, d] or [1, d]; a key without a row has NaN.
            found: By look-up, bool [n] or [1].
            features: By look-up, the column number of each feature in its matrix.
        """
        self._length, self._features = length, features
        self._columns, self._views, self._found = dict(columns), dict(views), dict(found)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, field: str) -> "np.ndarray":
        """The values [n] of a field of the request or of the candidates."""
        return self._expand(self._columns, field)

    def view(self, lookup: str) -> "np.ndarray":
        """All features of a look-up, float32 [n, d]."""
        return self._expand(self._views, lookup)

    def feature(self, lookup: str, name: str) -> "np.ndarray":
        """One feature of a look-up, float32 [n]."""
        matrix = self.view(lookup)
        try:
            place = self._features[lookup][name]
        except KeyError:
            raise KeyError(f"{lookup!r} has no feature {name!r}; it has {', '.join(self._features[lookup])}") from None
        return matrix[:, place]

    def found(self, lookup: str) -> "np.ndarray":
        """True for keys that have a row in the view, bool [n]."""
        return self._expand(self._found, lookup)

    def _expand(self, arrays: "dict[str, np.ndarray]", name: str) -> "np.ndarray":
        """A read-only array of n rows; one that is the same in all rows is repeated at its first use."""
        try:
            array = arrays[name]
        except KeyError:
            raise KeyError(f"there is no {name!r} among {', '.join(arrays) or 'none'}") from None
        if len(array) != self._length:
            array = arrays[name] = array.repeat(self._length, 0)
        elif array.flags.writeable:
            array = arrays[name] = array.view()
        array.flags.writeable = False
        return array
