"""LightGBM's models through its C API: the package imports scikit-learn, scipy and pandas, and a score needs none.

See https://lightgbm.readthedocs.io/en/stable/C-API.html; the package's `Booster` calls the same functions.
"""

import ctypes
import json
import weakref
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
_ROW_MAJOR = 1
_NORMAL = 0
"""The kind of prediction."""
_ALL = -1
"""All rounds of a model."""
_BY_SPLITS = 0
"""The kind of importance of features in a dump."""


class NativeBooster:
    """A model that is loaded from its text, with those methods of LightGBM's `Booster` that scoring needs."""

    def __init__(self, text: bytes, library: ctypes.CDLL) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        rounds = ctypes.c_int()
        self._call("LGBM_BoosterLoadModelFromString", text, ctypes.byref(rounds), ctypes.byref(self._handle))
        weakref.finalize(self, library.LGBM_BoosterFree, self._handle)
        values = ctypes.c_int()
        self._call("LGBM_BoosterGetNumClasses", self._handle, ctypes.byref(values))
        self._num_values = values.value

    def predict(self, matrix: np.ndarray, *, num_threads: int) -> np.ndarray:
        """Values of rows, float64: [n], or [n, values] if the model has several a row."""
        rows = np.ascontiguousarray(matrix, matrix.dtype if matrix.dtype in _TYPES else np.float32)
        found, count = np.empty(len(rows) * self._num_values), ctypes.c_int64()
        self._call(
            "LGBM_BoosterPredictForMat",
            self._handle,
            ctypes.c_void_p(rows.ctypes.data),
            _TYPES[rows.dtype],
            *(ctypes.c_int32(size) for size in rows.shape),
            *(_ROW_MAJOR, _NORMAL, 0, _ALL, f"num_threads={num_threads}".encode(), ctypes.byref(count)),
            ctypes.c_void_p(found.ctypes.data),
        )
        assert count.value == len(found), "a value for each row and class"
        return found if self._num_values == 1 else found.reshape(len(rows), -1)

    def dump_model(self) -> dict[str, Any]:
        """The trees as LightGBM describes them in JSON; ValueError if it is no valid JSON."""
        size, length = 1 << 20, ctypes.c_int64()
        while True:
            buffer = ctypes.create_string_buffer(size)
            where = (ctypes.c_int64(size), ctypes.byref(length), buffer)
            self._call("LGBM_BoosterDumpModel", self._handle, 0, _ALL, _BY_SPLITS, *where)
            if length.value <= size:
                found: dict[str, Any] = json.loads(buffer.value)
                return found
            size = length.value

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(f"LightGBM: {self._library.LGBM_GetLastError().decode()}")


def load_booster(text: bytes) -> Any:
    """A model by LightGBM's library; by its package if the library is not in its folder."""
    library = _load_library()
    if library is None:
        import lightgbm

        return lightgbm.Booster(model_str=text.decode())
    return NativeBooster(text, library)


@cache
def _load_library() -> ctypes.CDLL | None:
    spec = find_spec("lightgbm")
    folders = (spec and spec.submodule_search_locations) or ()
    for path in (path for folder in folders for path in sorted(Path(folder).glob("lib/lib_lightgbm.*"))):
        library = ctypes.CDLL(str(path))
        library.LGBM_GetLastError.restype = ctypes.c_char_p
        return library
    return None
