"""The file of a fitted estimator; none of the formats is a pickle."""

from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import CheckError
from forecache.base.files import replace_file
from forecache.models.training.estimator.libraries import FittedEstimator, library_of
from forecache.models.training.estimator.matrix import Matrix
from forecache.models.training.spec import MODEL_FILES


def save(fitted: FittedEstimator, folder: Path) -> Path:
    """Write the model file into the folder atomically.

    Raises:
        CheckError: A scikit-learn estimator contains types that cannot be loaded without trusting code in the file.
    """
    path = folder / MODEL_FILES[fitted.library]
    with replace_file(path) as unfinished:
        if fitted.library == "sklearn":
            _save_skops(fitted.model, unfinished)
        else:
            fitted.model.save_model(str(unfinished))
    return path


def refuse_unsaveable(estimator: Any, train: Matrix) -> None:
    """Check on a few rows, before a long fit, that a scikit-learn estimator can be saved.

    Raises:
        CheckError: It cannot be saved, or its file cannot be loaded without trusting code in it.
    """
    if library_of(estimator) != "sklearn":
        return
    from sklearn.base import clone  # type: ignore[import-untyped]

    from forecache.models.inference.runtimes.sklearn import refuse_untrusted

    rows = _sample_rows(train.label)
    try:
        trial = clone(estimator).fit(train.features[rows], train.label[rows])
    except Exception:  # noqa: BLE001  (perhaps too few rows; the fit on all rows reports the error)
        return
    refuse_untrusted(_dump_skops(trial))


def _sample_rows(label: np.ndarray) -> np.ndarray:
    """Indices of up to 256 rows, among them the first rows with the smallest and with the largest label."""
    ends = [np.flatnonzero(label == value)[:64] for value in (label.min(), label.max())]
    return np.unique(np.concatenate([np.arange(min(len(label), 128)), *ends]))


def _save_skops(estimator: Any, path: Path) -> None:
    from forecache.models.inference.runtimes.sklearn import load_skops

    payload = _dump_skops(estimator)
    path.write_bytes(payload)
    load_skops(payload)


def _dump_skops(estimator: Any) -> bytes:
    from forecache.models.inference.runtimes.sklearn import skops_io

    try:
        return bytes(skops_io().dumps(estimator))
    except (TypeError, NotImplementedError) as error:
        raise CheckError(
            f"The estimator cannot be saved without a pickle: {error}.",
            remedy="Build it of scikit-learn's own classes and functions.",
        ) from None
