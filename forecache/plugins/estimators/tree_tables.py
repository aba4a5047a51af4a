"""Boosted trees as tables of bits: the scores of a LightGBM Booster for few rows, sooner and equal to the bit.

LightGBM follows each tree from node to node, and every step waits for the one before. Here no tree is followed. A tree
has one bit for each of its leaves, and a node whose comparison is false rules out the leaves on its left. For each
feature, and each interval between two of its thresholds, a table has the leaves of all trees that are possible there.
The table rows of a sample's values are combined by AND; the first remaining leaf of each tree is the one that LightGBM
arrives at (C. Lucchese et al., "QuickScorer", SIGIR 2015). The values of leaves are added in LightGBM's order, from the
first tree to the last, in float64.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK_ROWS = 64
"""Rows that are scored together; their data stays in the processor's cache."""
MOST_BYTES = 16 << 20
_IDENTITY = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg"})
"""Objectives whose score is the sum of the leaves, as it is."""
_BINARY = "binary"
"""Its score is the logistic function of the sum."""
_ZERO = np.float32(1e-35)
"""LightGBM takes numbers up to this size as 0."""
_INFINITE = 1e300
"""Infinity as LightGBM writes it into a dump."""
_WORDS = {32: (np.uint32, np.float32, np.int32, 23, 127), 64: (np.uint64, np.float64, np.int64, 52, 1023)}
"""By the most leaves of a tree: a word with a bit for each, a float that holds powers of two up to it, an integer of
its size, and where in the float's bits the exponent begins and what it is for 1."""


@dataclass(frozen=True)
class _Node:
    """A node of a tree: compares a feature with a threshold, at most that is left.

    Attributes:
        unknown_left: Whether NaN goes left.
        left: A bit for each leaf on its left.
    """

    tree: int
    feature: int
    threshold: np.float32
    unknown_left: bool
    left: int


class TreeTables:
    """The tables of a model; see `tree_tables`."""

    def __init__(self, nodes: list[_Node], leaves: list[list[float]], *, sigmoid: float | None = None) -> None:
        self._sigmoid = sigmoid
        bits = 32 if max(map(len, leaves)) <= 32 else 64
        self._word, self._float, self._integer, self._exponent_at, self._exponent_of_1 = _WORDS[bits]
        self._values = np.zeros((len(leaves), bits))
        for tree, values in enumerate(leaves):
            self._values[tree, : len(values)] = values
        self._features = np.array(sorted({node.feature for node in nodes}), np.intp)
        self._first_leaf = np.arange(len(leaves)) * bits - self._exponent_of_1
        bounds, tables = [], []
        for place, feature in enumerate(self._features.tolist()):
            own = [node for node in nodes if node.feature == feature]
            thresholds = np.unique(np.array([node.threshold for node in own], np.float32))
            # Behind infinity, and before the negative one, are the NaN of either sign.
            infinities = _sortable_bits(np.array([-np.inf, np.inf], np.float32))
            own_bounds = np.concatenate([infinities[:1] - 1, _sortable_bits(thresholds), infinities[1:]])
            bounds.append(own_bounds + (place << 32))
            tables.append(self._table(own, thresholds))
        self._bounds, self._table_rows = np.concatenate(bounds), np.concatenate(tables)
        count = np.arange(len(self._features))[:, None]
        # Each table has one row more than it has bounds.
        self._offsets, self._first_row = count << 32, count

    def _table(self, nodes: list[_Node], thresholds: np.ndarray) -> np.ndarray:
        """The leaves that are possible in each interval of a feature, [intervals, trees]; NaN's are first and last."""
        num_trees = len(self._values)
        whole = self._word(~self._word(0))
        table = np.full((len(thresholds) + 3, num_trees), whole, self._word)
        for node in nodes:
            stays = whole ^ self._word(node.left)
            table[int(np.searchsorted(thresholds, node.threshold)) + 2 : -1, node.tree] &= stays
            if not node.unknown_left:
                table[[0, -1], node.tree] &= stays
        return table

    def scores(self, matrix: np.ndarray) -> np.ndarray:
        """The scores, float64 [n], of features, float32 [n, num_features], C-contiguous."""
        blocks = [matrix[first : first + BLOCK_ROWS] for first in range(0, len(matrix), BLOCK_ROWS)]
        sums = self._sums(matrix) if len(blocks) == 1 else np.concatenate([self._sums(block) for block in blocks])
        if self._sigmoid is None:
            return sums
        # One by one, by the same function of C that LightGBM calls: numpy's own has other last bits.
        return np.array([1.0 / (1.0 + _exp(-self._sigmoid * each)) for each in sums.tolist()])

    def _sums(self, matrix: np.ndarray) -> np.ndarray:
        places = _sortable_bits(matrix.T.take(self._features, 0))
        places += self._offsets
        rows = self._bounds.searchsorted(places.ravel()).reshape(places.shape)
        rows += self._first_row
        possible = np.bitwise_and.reduce(self._table_rows.take(rows, 0), 0)
        possible &= -possible  # the lowest bit of each word
        exponents = possible.astype(self._float).view(self._integer) >> self._exponent_at
        values: np.ndarray = self._values.take((exponents + self._first_leaf).T)
        # `accumulate` adds one after the other, where `reduce` may add in pairs.
        summed: np.ndarray = np.add.accumulate(values, 0)[-1]
        return summed


def tree_tables(model: dict[str, Any]) -> TreeTables | None:
    """The tables of a model as `Booster.dump_model` returns it; None for a kind of model that they cannot score."""
    objective, *settings = (model.get("objective") or "").split() or [""]
    trees = [tree["tree_structure"] for tree in model["tree_info"]]
    if objective not in (*_IDENTITY, _BINARY) or "sqrt" in settings or model["average_output"]:
        return None
    if model["num_tree_per_iteration"] != 1 or not trees:
        return None
    sigmoid = float(settings[0].removeprefix("sigmoid:")) if objective == _BINARY else None
    nodes: list[_Node] = []
    leaves: list[list[float]] = []
    for number, tree in enumerate(trees):
        values: list[float] = []
        found = list(_nodes_of(tree, number, values))
        if None in found or len(values) > max(_WORDS):
            return None
        nodes += [node for node in found if node is not None]
        leaves.append(values)
    thresholds = len({(node.feature, float(node.threshold)) for node in nodes})
    if not nodes or thresholds * len(trees) * 8 > MOST_BYTES:
        return None
    return TreeTables(nodes, leaves, sigmoid=sigmoid)


def _nodes_of(node: dict[str, Any], tree: int, leaves: list[float]) -> Iterator[_Node | None]:
    """The nodes below one, None for an unsupported kind; appends the values of leaves from left to right."""
    if "split_feature" not in node:
        leaves.append(node["leaf_value"])
        if "leaf_const" in node:  # of a linear tree
            yield None
        return
    first = len(leaves)
    yield from _nodes_of(node["left_child"], tree, leaves)
    left = (1 << len(leaves)) - (1 << first)
    yield from _nodes_of(node["right_child"], tree, leaves)
    missing = node["missing_type"]
    if node["decision_type"] != "<=" or missing not in ("None", "NaN"):
        yield None
        return
    threshold = float(node["threshold"])
    unknown_left = node["default_left"] if missing == "NaN" else threshold >= 0
    yield _Node(tree, node["split_feature"], _threshold(threshold), unknown_left, left)


def _threshold(threshold: float) -> np.float32:
    """The largest float32 that LightGBM takes as at most the threshold."""
    zero = float(_ZERO)
    if 0 <= threshold < zero:
        return _ZERO
    if threshold >= _INFINITE:
        return np.float32(np.inf)
    with np.errstate(all="ignore"):
        near = np.float32(-zero if -zero <= threshold < 0 else threshold)
        is_under = float(near) <= threshold and float(near) != -zero
        return near if is_under else np.nextafter(near, np.float32(-np.inf))


def _sortable_bits(numbers: np.ndarray) -> np.ndarray:
    """Map float32 numbers to integers in the same order, int64 of at most 33 bits."""
    bits = numbers.view(np.int32).astype(np.int64)
    bits ^= (bits >> 63) & 0x7FFFFFFF
    return bits


def _exp(number: float) -> float:
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf
