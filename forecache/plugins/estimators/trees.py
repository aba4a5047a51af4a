"""Checks scikit-learn's trees from a file: following their nodes stays inside their arrays and ends.

scikit-learn's compiled code follows the nodes without checking bounds. These types run no code of the file, but a
file that was tampered with could make them read beyond their memory, or loop for ever.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from forecache.base.errors import CheckError


def refuse_unsound_trees(estimator: Any) -> None:
    """Check every tree inside an estimator.

    Raises:
        CheckError: A tree leads out of its nodes or features, or back to an earlier node.
    """
    for holder, tree, width in _trees(estimator, set()):
        check = _is_sound_tree if type(tree).__name__ == "Tree" else _is_sound_predictor
        sound = check(tree, width)
        if not sound:
            raise CheckError(
                f"A tree of the {type(holder).__name__} in this file leads out of its own nodes or features.",
                remedy="The file was damaged or changed: train again, or restore it.",
            )


def _trees(value: Any, seen: set[int], holder: Any = None) -> Iterator[tuple[Any, Any, int]]:
    """Every tree in an estimator's attributes, with the estimator that has it and the width of the rows that it gets.

    A tree that several estimators share is yielded once for each of them.
    """
    kind = type(value)
    if (kind.__module__, kind.__name__) in _TREES:
        yield holder, value, int(getattr(holder, "n_features_in_", -1))
        return
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None))):
        return
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, np.ndarray):
        parts = list(value.flat) if value.dtype == object else []
    elif kind.__module__.partition(".")[0] == "sklearn" and hasattr(value, "__dict__"):
        parts = list(vars(value).values())
        holder = value if hasattr(value, "fit") else holder
        yield from _members(value)
    for part in parts:
        yield from _trees(part, seen, holder)


def _members(ensemble: Any) -> Iterator[tuple[Any, Any, int]]:
    """The trees that an ensemble consists of, as `_trees`, with the width of the rows that it passes to each.

    Forests and boosting pass rows to the compiled code without comparing their width with the tree's.
    """
    members = getattr(ensemble, "estimators_", ())
    for i, member in enumerate(members.flat if isinstance(members, np.ndarray) else members):
        if hasattr(member, "tree_"):
            yield member, member.tree_, _width_of_member(ensemble, i)


def _width_of_member(ensemble: Any, i: int) -> int:
    from sklearn.ensemble import BaggingClassifier, BaggingRegressor, IsolationForest  # type: ignore[import-untyped]
    from sklearn.multioutput import ClassifierChain, RegressorChain  # type: ignore[import-untyped]

    width = int(getattr(ensemble, "n_features_in_", -1))
    if isinstance(ensemble, (ClassifierChain, RegressorChain)):
        return width + i  # the earlier members' answers follow the features
    if isinstance(ensemble, (BaggingClassifier, BaggingRegressor, IsolationForest)):
        chosen = ensemble.estimators_features_
        return min(width, len(chosen[i])) if i < len(chosen) else -1
    return width


_TREES = {
    ("sklearn.tree._tree", "Tree"),
    ("sklearn.ensemble._hist_gradient_boosting.predictor", "TreePredictor"),
}


def _is_sound_tree(tree: Any, num_features: int) -> bool:
    if tree.node_count != tree.capacity or tree.node_count < 1:  # before its arrays are read
        return False
    if tree.n_features != num_features:  # the tree is given rows as wide as its estimator's input
        return False
    return _children_follow(tree.children_left, tree.children_right, tree.children_left == -1) and _is_in_range(
        tree.feature, tree.children_left != -1, tree.n_features
    )


def _is_sound_predictor(tree: Any, num_features: int) -> bool:
    nodes = tree.nodes
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or nodes.dtype.names is None or not len(nodes):
        return False
    inner = nodes["is_leaf"] == 0
    categorical = inner & (nodes["is_categorical"] != 0)
    return (
        _children_follow(nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), ~inner)
        and _is_in_range(nodes["feature_idx"], inner, num_features)
        and _is_in_range(nodes["bitset_idx"], categorical, len(tree.raw_left_cat_bitsets))
    )


def _children_follow(left: np.ndarray, right: np.ndarray, is_leaf: np.ndarray) -> bool:
    """True if the children of each inner node are later nodes: then every walk ends, inside the nodes."""
    place, inner = np.arange(len(left)), ~is_leaf
    return all(bool(np.all((child[inner] > place[inner]) & (child[inner] < len(left)))) for child in (left, right))


def _is_in_range(index: np.ndarray, where: np.ndarray, end: int) -> bool:
    chosen = index[where].astype(np.int64)
    return bool(np.all((chosen >= 0) & (chosen < end)))
