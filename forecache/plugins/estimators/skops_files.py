"""The runtimes of scikit-learn estimators that were saved with skops, of types that run no code of the file.

`sklearn` takes those that Forecache trained, `skops` those of others: MLflow takes the list of trusted types from the
model itself, and so loads none if pickles are not allowed.
"""

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from forecache.base.errors import CheckError
from forecache.models.inference.arrays import run_in_blocks
from forecache.models.inference.kernel_spec import CLASSES, OUTPUTS, KernelSpec, pickle_allowed
from forecache.models.inference.runtimes.pyfunc import as_columns
from forecache.models.inference.runtimes.runtime import (
    Kernel,
    MatrixKernel,
    PackedModel,
    Predict,
    Runtime,
    StoredModel,
    new_spec,
)


def refuse_unsound_trees(estimator: Any) -> None:
    """Check every tree inside an estimator; CheckError if one leads out of its nodes or features, or back to an earlier
    node."""
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


SAFE_TYPES = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Types that skops does not trust by itself and that hold numbers only: loading them runs no code of the file.

Compiled code walks trees without checking bounds; `forecache.plugins.estimators.skops_files` checks them before."""
_IMPORTS_TORCH = "sklearn.externals.array_api_compat.torch"
_ROW_BY_ROW = frozenset(
    f"{name}{kind}"
    for name in ("DecisionTree", "ExtraTree", "ExtraTrees", "RandomForest", "GradientBoosting", "HistGradientBoosting")
    for kind in ("Classifier", "Regressor")
)
"""scikit-learn's estimators that score each row by comparisons and sums of its own, independent of other rows."""
_METHODS = ("predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba")


def _pack_own(model: StoredModel) -> "PackedModel | str":
    flavour = model.flavours["sklearn"]
    if OUTPUTS not in model.metadata:
        return "was not trained by Forecache"
    if flavour.get("serialization_format") != "skops":
        return "is saved as a pickle"
    return PackedModel(
        new_spec("sklearn", model.signature, "float32", {}),
        (model.path / flavour["pickled_model"]).read_bytes(),
        "the model is a scikit-learn estimator of safe types only; workers import scikit-learn, one thread each",
    )


def load_predict(payload: bytes, *, several: bool = False) -> Predict:
    """Load the prediction function from a skops file: probabilities of the second class, or predictions, float64 [n];
    with `several` those of all classes, or all predictions, float64 [n, values]. CheckError as of `load_skops`."""
    from joblib import parallel_config  # type: ignore[import-untyped]
    from threadpoolctl import ThreadpoolController

    estimator, pools = load_skops(payload), ThreadpoolController()
    classifies = hasattr(estimator, "predict_proba")

    def predict(matrix: np.ndarray) -> np.ndarray:
        # Threads of a forest add up its trees in the order in which they end, and those of BLAS split its sums.
        with parallel_config(backend="sequential"), pools.limit(limits=1):
            values = estimator.predict_proba(matrix) if classifies else estimator.predict(matrix)
        values = values[:, 1] if classifies and not several else values
        return np.asarray(values, np.float64).reshape((len(matrix), -1) if several else len(matrix))

    if type(estimator).__name__ in _ROW_BY_ROW:
        return predict
    # In float64: OpenBLAS's product in float32 gives a row other last bits at another position in the matrix.
    return lambda matrix: run_in_blocks(matrix.astype(np.float64), lambda block: [predict(block)])[0]


def skops_io() -> ModuleType:
    """The module `skops.io`, without torch: skops lists scikit-learn's estimators, and so imports all of its packages,
    of which one imports torch if that is installed: three of the six seconds of CPU that the import took."""
    if "skops.io" not in sys.modules and "torch" not in sys.modules:
        sys.modules[_IMPORTS_TORCH] = None  # type: ignore[assignment]  # the import of torch fails, and is ignored
        try:
            import skops.io
        finally:
            sys.modules.pop(_IMPORTS_TORCH, None)
    import skops.io

    return skops.io


def make_repeatable(payload: bytes) -> bytes:
    """A skops file with the same content, equal for equal estimators: what it names by addresses in memory is numbered,
    its members have no time, and the unused bytes between the fields of arrays are 0."""
    numbers: dict[object, int] = {}
    names: dict[str, str] = {}

    def number(value: Any) -> None:
        if isinstance(value, dict):
            if "__id__" in value:
                value["__id__"] = numbers.setdefault(value["__id__"], len(numbers))
            if isinstance(value.get("file"), str) and value["file"] in members:  # else it is a key of the user's
                value["file"] = names.setdefault(value["file"], f"{len(names)}{Path(value['file']).suffix}")
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            number(part)

    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    number(schema)
    members = {new: _clear_padding(members[old]) for old, new in names.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**members, "schema.json": json.dumps(schema, indent=2).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _clear_padding(content: bytes) -> bytes:
    """The bytes of an array of records with 0 where they have no field; other bytes as they are."""
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clear = np.zeros(array.shape, array.dtype)  # `zeros_like` clears the fields alone
    for name in array.dtype.names:
        clear[name] = array[name]
    buffer = io.BytesIO()
    np.save(buffer, clear, allow_pickle=False)
    return buffer.getvalue()


def load_skops(payload: bytes) -> Any:
    """A scikit-learn estimator from a skops file; CheckError if it holds types that are not known to be safe, or a tree
    that was tampered with."""
    refuse_untrusted(payload)
    estimator = skops_io().loads(payload, trusted=list(SAFE_TYPES))
    refuse_unsound_trees(estimator)
    return estimator


def untrusted_types(payload: bytes) -> list[str]:
    return [name for name in skops_io().get_untrusted_types(data=payload) if name not in SAFE_TYPES]


def refuse_untrusted(payload: bytes) -> None:
    """Refuse a skops file that would run code when it is loaded; see `load_skops`."""
    untrusted = untrusted_types(payload)
    if untrusted:
        raise CheckError(
            f"The estimator holds {untrusted[0]}, which cannot be loaded without trusting code in the file.",
            remedy="docs/how-to/models.md lists the estimators that can; LightGBM and XGBoost estimators stand alone.",
        )


def _load_own(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    predict = load_predict(payload(), several=spec.outputs[0].width is not None)
    return MatrixKernel(spec, lambda matrix: [predict(matrix)])


SKLEARN = Runtime("sklearn", "sklearn", ("scikit-learn", "skops"), _pack_own, _load_own)


def _pack(model: StoredModel) -> "PackedModel | str":
    flavour = model.flavours["sklearn"]
    if flavour.get("serialization_format") != "skops":
        return "is saved as a pickle"
    if pickle_allowed():
        return "may be loaded by MLflow itself, as pickles are allowed"
    method = model.flavours.get("python_function", {}).get("predict_fn", "predict")
    if method not in _METHODS:
        return f"is to be asked for {method}"
    payload = (model.path / flavour["pickled_model"]).read_bytes()
    untrusted = untrusted_types(payload)
    if untrusted:
        return f"holds {untrusted[0]}, which cannot be loaded without trusting code in the file"
    options: dict[str, Any] = {"method": method}
    if method == "predict_proba" and len(model.outputs) == 1:
        options[CLASSES] = [_class_label(each) for each in getattr(load_skops(payload), "classes_", ())]
    reason = "the model is a scikit-learn estimator of safe types only; workers import scikit-learn, one thread each"
    return PackedModel(new_spec("skops", model.signature, "float64", options), payload, reason)


def _class_label(label: Any) -> str:
    return str(int(label)) if isinstance(label, (float, np.floating)) and label % 1 == 0 else str(label)


def _load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    from joblib import parallel_config
    from threadpoolctl import ThreadpoolController

    estimator, pools = load_skops(payload()), ThreadpoolController()
    names = list(spec.inputs) if hasattr(estimator, "feature_names_in_") else []

    def predict(block: np.ndarray) -> list[np.ndarray]:
        with parallel_config(backend="sequential"), pools.limit(limits=1):
            found = getattr(estimator, spec.options["method"])(_as_frame(block, names))
        return as_columns(found, spec)

    return MatrixKernel(spec, lambda matrix: run_in_blocks(matrix, predict))


def _as_frame(block: np.ndarray, names: list[str]) -> Any:
    """A pandas frame for an estimator that was fitted with one: it may pick columns by their names."""
    if not names:
        return block
    import pandas as pd  # type: ignore[import-untyped]

    return pd.DataFrame(block, columns=names, copy=False)


SKOPS = Runtime("skops", "sklearn", ("scikit-learn", "skops"), _pack, _load)
