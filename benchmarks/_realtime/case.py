"""The case that every server answers: 50 products of a household ranked by 32 features, 8 of them the household's.

Features follow from a key and how often it was published, so any answer of any server can be checked without a copy.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CANDIDATES = 50
_CATEGORIES = 400
HOUSEHOLD, PRODUCT = "household_id", "product_id"
HOUSEHOLD_FEATURES = tuple(f"h{number}" for number in range(8))
PRODUCT_FEATURES = tuple(f"p{number:02}" for number in range(24))
WIDE_FEATURES = tuple(f"w{number:02}" for number in range(32))
FEATURES = (*HOUSEHOLD_FEATURES, *PRODUCT_FEATURES)
NETWORK, TREES = "network", "trees"
MODELS = (NETWORK, TREES)
MODEL_TITLES = {NETWORK: "a 64-32 network (ONNX)", TREES: "150 trees of 31 leaves (LightGBM)"}
_SALT = {HOUSEHOLD: 11, PRODUCT: 23, "wide_id": 37}


def features_of(key: str, ids: np.ndarray, size: int, stamp: int = 0) -> np.ndarray:
    """Features of keys, float32 [n, size] in [0, 1), as they are after `stamp` publishes that changed them.

    Args:
        ids: int64 [n].
    """
    mixed = (ids.astype(np.uint64)[:, None] * np.uint64(size) + np.arange(size, dtype=np.uint64)) * np.uint64(131)
    mixed += np.uint64(_SALT[key] + 1_000_003 * stamp)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)).astype(np.float32)


def matrix_of(household: int, candidates: np.ndarray) -> np.ndarray:
    """What the model sees of a request, float32 [n, 32]."""
    mine = features_of(HOUSEHOLD, np.array([household]), len(HOUSEHOLD_FEATURES))
    theirs = features_of(PRODUCT, candidates, len(PRODUCT_FEATURES))
    return np.hstack([np.repeat(mine, len(candidates), axis=0), theirs])


def bodies(count: int, num_keys: int, seed: int, *, scattered: bool = False) -> list[dict[str, Any]]:
    """Requests of random households, each with the 50 best sellers of one of 400 categories, in any order.

    Args:
        scattered: With 50 products at random of all instead.
    """
    rng = np.random.default_rng(seed)
    groups = min(_CATEGORIES, num_keys // CANDIDATES)
    sellers = np.random.default_rng(0).permutation(num_keys)[: groups * CANDIDATES].reshape(groups, CANDIDATES)
    found = []
    for _ in range(count):
        if scattered:
            products = rng.choice(num_keys, CANDIDATES, replace=False)
        else:
            products = rng.permutation(sellers[int(rng.integers(groups))])
        found.append({HOUSEHOLD: int(rng.integers(num_keys)), "candidates": products.tolist()})
    return found


def encoded(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


class Expected:
    """The answers that a model has to give."""

    def __init__(self, folder: Path, model: str) -> None:
        self._score = scorer(folder, model)

    def scores(self, body: dict[str, Any]) -> dict[int, float]:
        """The score of each candidate."""
        candidates = np.array(body["candidates"])
        scores = self._score(matrix_of(body[HOUSEHOLD], candidates))
        return dict(zip(candidates.tolist(), map(float, scores), strict=True))

    def fault_of(self, body: dict[str, Any], items: list[dict[str, Any]]) -> str:
        """What is wrong with an answer's items, "": nothing. Scores may differ by a float32's rounding."""
        wanted = self.scores(body)
        if sorted(item[PRODUCT] for item in items) != sorted(wanted):
            return "its items are not the candidates"
        given = [item["score"] for item in items]
        if given != sorted(given, reverse=True):
            return "its items are not in the order of their scores"
        far = [item for item in items if abs(item["score"] - wanted[item[PRODUCT]]) > 1e-5]
        return f"{far[0]} should have the score {wanted[far[0][PRODUCT]]}" if far else ""


def scorer(folder: Path, model: str, seed: int = 0) -> Any:
    """`score(float32 [n, 32]) -> [n]` of a model file, with one thread."""
    if model == NETWORK:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file_of(folder, model, seed)), options)
        return lambda matrix: session.run(None, {"features": matrix})[0].ravel()
    import lightgbm

    booster = lightgbm.Booster(model_file=str(file_of(folder, model)))
    return lambda matrix: booster.predict(matrix, num_threads=1)


def file_of(folder: Path, model: str, seed: int = 0) -> Path:
    """Where a model lies; another seed is another model."""
    return folder / f"{model}{seed or ''}.{'onnx' if model == NETWORK else 'txt'}"


def write_models(folder: Path, names: Sequence[str] = MODELS, *, rows: int = 40_000) -> None:
    """Write models, and two further networks; kept where they are there. Trees are trained on so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(3 if NETWORK in names else 0):
        if not file_of(folder, NETWORK, seed).exists():
            graph = network(np.random.default_rng(seed), len(FEATURES))
            file_of(folder, NETWORK, seed).write_bytes(graph.SerializeToString())
    if TREES in names and not file_of(folder, TREES).exists():
        rng = np.random.default_rng(1)
        import lightgbm

        features = rng.random((rows, len(FEATURES)), np.float32)
        target = np.sin(6 * features[:, :16]).sum(axis=1) * features[:, 16] + features[:, 17:].prod(axis=1)
        parameters = {"num_leaves": 31, "objective": "regression", "num_threads": 1, "verbosity": -1, "seed": 1}
        booster = lightgbm.train(parameters, lightgbm.Dataset(features, target), num_boost_round=150)
        booster.save_model(str(file_of(folder, TREES)))


def network(rng: np.random.Generator, features: int) -> Any:
    """So many features, 64 and 32 units with ReLU, one score, as an ONNX graph."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, last = [], [], "features"
    widths = (features, 64, 32, 1)
    for number, (wide, next_wide) in enumerate(zip(widths, widths[1:], strict=False)):
        scale = np.sqrt(2 / wide)
        weights.append(
            numpy_helper.from_array((rng.normal(size=(wide, next_wide)) * scale).astype(np.float32), f"w{number}")
        )
        weights.append(numpy_helper.from_array(rng.normal(size=next_wide).astype(np.float32) * 0.1, f"b{number}"))
        out = "score" if next_wide == 1 else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [out]))
        if next_wide != 1:
            nodes.append(helper.make_node("Relu", [out], [f"layer{number}"]))
            last = f"layer{number}"
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model
