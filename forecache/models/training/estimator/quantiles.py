"""Estimators that were fitted one for each quantile, as one model that predicts all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from forecache.base.errors import SettingsError
from forecache.models.training.estimator.libraries import FittedEstimator

_TREE = "\nTree="


def combine_estimators(fitted: Sequence[FittedEstimator]) -> FittedEstimator:
    """Combine the estimators of all levels into one model that predicts [n, levels].

    Raises:
        SettingsError: The library has no such model.
    """
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
    """Predictions of all levels, float64 [n, levels]."""
    found = [np.asarray(each.predict(rows), np.float64).reshape(len(rows), -1) for each in estimators]
    return np.concatenate(found, axis=1)


def _trees(text: str) -> list[str]:
    """The text of each tree, without the line with its number."""
    body = text[text.index(_TREE) : text.index("end of trees")]
    return [part.partition("\n")[2].rstrip("\n") + "\n\n" for part in body.split(_TREE)[1:]]


def _zero_tree(tree: str) -> str:
    """A tree whose leaves are all zero."""
    lines = tree.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("leaf_value="):
            lines[i] = "leaf_value=" + " ".join("0" for _ in line.split())
    return "\n".join(lines) + "\n\n"
