"""The file of a fitted estimator; none of the formats is a pickle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, SettingsError
from forecache.base.files import replace_file
from forecache.models.training.spec import MODEL_FILES
from forecache.plugins.estimators.libraries import FittedEstimator, Matrix, library_of
from forecache.plugins.estimators.skops_files import load_skops, make_repeatable, refuse_untrusted, skops_io


def save(fitted: FittedEstimator, folder: Path) -> Path:
    """Write the model file into the folder atomically; CheckError if it cannot be loaded without trusting code in the
    file."""
    path = folder / MODEL_FILES[fitted.library]
    with replace_file(path) as unfinished:
        if fitted.library == "sklearn":
            _save_skops(fitted.model, unfinished)
        else:
            fitted.model.save_model(str(unfinished))
    return path


def refuse_unsaveable(estimator: Any, train: Matrix) -> None:
    """CheckError if a scikit-learn estimator, on a few rows and before a long fit, cannot be saved or loaded without
    code."""
    if library_of(estimator) != "sklearn":
        return
    from sklearn.base import clone  # type: ignore[import-untyped]

    rows = _sample_rows(train.label)
    try:
        trial = clone(estimator).fit(train.features[rows], train.label[rows])
    except Exception:  # noqa: BLE001  (perhaps too few rows; the fit on all rows reports the error)
        return
    refuse_untrusted(dump_skops(trial))


def _sample_rows(label: np.ndarray) -> np.ndarray:
    """Indices of up to 256 rows, among them the first rows with the smallest and with the largest label."""
    ends = [np.flatnonzero(label == value)[:64] for value in (label.min(), label.max())]
    return np.unique(np.concatenate([np.arange(min(len(label), 128)), *ends]))


def _save_skops(estimator: Any, path: Path) -> None:
    payload = dump_skops(estimator)
    path.write_bytes(payload)
    load_skops(payload)


def dump_skops(estimator: Any) -> bytes:
    try:
        return make_repeatable(bytes(skops_io().dumps(estimator)))
    except (TypeError, NotImplementedError) as error:
        raise CheckError(
            f"The estimator cannot be saved without a pickle: {error}.",
            remedy="Build it of scikit-learn's own classes and functions.",
        ) from None


_TREE = "\nTree="


def combine_estimators(fitted: Sequence[FittedEstimator]) -> FittedEstimator:
    """Combine the estimators of all levels into one model that predicts [n, levels]; SettingsError if the library has
    none."""
    first, loss = fitted[0], "pinball_loss"
    if len(fitted) == 1:
        return first
    rounds = {"rounds": max(each.rounds for each in fitted), "best_round": max(each.best_round for each in fitted)}
    if any(each.library != first.library for each in fitted) or first.library == "xgboost":
        raise SettingsError(
            "The estimators of the quantiles cannot be saved as one model.",
            remedy="Return one of LightGBM or scikit-learn for each level; of XGBoost one with quantile_alpha=levels.",
        )
    if first.library == "lightgbm":
        return FittedEstimator("lightgbm", merge_boosters([each.model for each in fitted]), **rounds, loss=loss)
    from sklearn.multioutput import MultiOutputRegressor  # type: ignore[import-untyped]

    together = MultiOutputRegressor(first.model)
    together.estimators_ = [each.model for each in fitted]
    return FittedEstimator("sklearn", together, **rounds, loss=loss)


def merge_boosters(boosters: Sequence[Any]) -> Any:
    """Build a LightGBM Booster with one output per Booster; their trees alternate as those of several classes do.

    A Booster with fewer trees than the others is filled up with trees whose leaves are 0.
    """
    import lightgbm

    texts = [booster.model_to_string() for booster in boosters]
    trees = [_trees(text) for text in texts]
    turns = max(map(len, trees))
    header = texts[0][: texts[0].index(_TREE)].splitlines()
    # Without its objective a model returns what its trees add up to, and without their sizes trees are read in order.
    kept = [
        line for line in header if not line.startswith(("objective=", "tree_sizes=", "num_class=", "num_tree_per_"))
    ]
    position = next(i for i, line in enumerate(kept) if line.startswith("version=")) + 1
    kept[position:position] = [f"num_class={len(boosters)}", f"num_tree_per_iteration={len(boosters)}"]
    dealt = [own[turn] if turn < len(own) else _zero_tree(own[0]) for turn in range(turns) for own in trees]
    body = "".join(f"{_TREE}{number}\n{tree}" for number, tree in enumerate(dealt))
    return lightgbm.Booster(model_str="\n".join(kept) + "\n" + body + "\nend of trees\n")


def predict_all(estimators: Sequence[Any], rows: np.ndarray) -> np.ndarray:
    found = [np.asarray(each.predict(rows), np.float64).reshape(len(rows), -1) for each in estimators]
    return np.concatenate(found, axis=1)


def _trees(text: str) -> list[str]:
    """The text of each tree, without the line with its number."""
    body = text[text.index(_TREE) : text.index("end of trees")]
    return [part.partition("\n")[2].rstrip("\n") + "\n\n" for part in body.split(_TREE)[1:]]


def _zero_tree(tree: str) -> str:
    lines = tree.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("leaf_value="):
            lines[i] = "leaf_value=" + " ".join("0" for _ in line.split())
    return "\n".join(lines) + "\n\n"
