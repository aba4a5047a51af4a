"""Fits by LightGBM, XGBoost and scikit-learn, on matrices that are filled batch by batch: only one copy exists."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.base.ranking import DEFAULT_PLACES, sizes_of
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.lake.split_rows import count_split, label_numbers, split_batches
from forecache.models.inference.encoding import MatrixEncoding


@dataclass(frozen=True)
class Matrix:
    """Rows of one split.

    Attributes:
        sizes: Of a ranking, the number of rows of each request in the order of rows, int64 [requests].
    """

    features: NDArray[np.float32]  # float32 [n, num_features], NaN for null
    label: NDArray[np.float32]  # float32 [n]; of classes their positions
    weight: NDArray[np.float32] | None = None  # float32 [n]; None if the label has no weight
    sizes: NDArray[np.int64] | None = None

    @property
    def weight_of_requests(self) -> NDArray[np.float32] | None:
        if self.weight is None or self.sizes is None:
            return None
        return self.weight[np.cumsum(self.sizes) - self.sizes]


def read_matrix(
    settings: Settings,
    pipeline: Trainable,
    encoding: MatrixEncoding,
    *,
    version: int,
    split: str | tuple[str, ...],
    classes: Sequence[str] = (),
) -> Matrix:
    """Read a split, or several one after the other, in the table's order: rows x (columns of the matrix + 1) x 4 bytes.

    NotFoundError without the table or the version; InputError if a column is missing, the split is empty or larger than
    the machine's memory, or a label is null.
    """
    table, names, label = pipeline.training_table, pipeline.feature_names, pipeline.trained_label.name
    splits = (split,) if isinstance(split, str) else split
    rows = sum(count_split(settings, table, version=version, split=each) for each in splits)
    if not rows:
        raise InputError(
            f"The split {split!r} of {table!r} has no row at version {version}.",
            remedy="Build the training set for an as-of date with enough history.",
        )
    _require_memory(rows * (encoding.width + 1) * 4, rows, " and ".join(splits))
    weight = pipeline.trained_label.weight
    matrix = Matrix(
        np.empty((rows, encoding.width), np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32) if weight else None,
    )
    start, ranked = 0, pipeline.task == "ranking"
    requests: list[NDArray[np.object_]] = []
    columns = [*names, *pipeline.trained_label.columns, *([pipeline.group_column] if ranked else [])]
    batches = (split_batches(settings, table, version=version, split=each, columns=columns) for each in splits)
    for batch in chain.from_iterable(batches):
        stop = start + batch.num_rows
        if batch.column(label).null_count:
            raise InputError(
                f"The label {label!r} is null in {batch.column(label).null_count} rows of {table!r}.",
                remedy="The label's function must leave out entities without a value: build the training set again.",
            )
        matrix.features[start:stop] = encoding.matrix([batch.column(name) for name in names])
        matrix.label[start:stop] = label_numbers(batch.column(label), classes)
        if matrix.weight is not None:
            matrix.weight[start:stop] = batch.column(weight).to_numpy(zero_copy_only=False)
        if ranked:
            requests.append(batch.column(pipeline.group_column).to_numpy(zero_copy_only=False))
        start = stop
    assert start == rows
    return replace(matrix, sizes=sizes_of(np.concatenate(requests))) if ranked else matrix


def machine_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _require_memory(wanted: int, rows: int, split: str) -> None:
    have = machine_memory_bytes()
    if wanted > have:
        raise InputError(
            f"The split {split!r} has {rows:,} rows, {wanted / (1 << 30):.1f} GiB as float32, and this machine has "
            f"{have / (1 << 30):.1f} GiB of memory.",
            remedy="An estimator is fitted in memory: use fewer training dates, a larger machine, or a torch network.",
        )


Library = Literal["lightgbm", "xgboost", "sklearn"]
Round = Callable[[int, float | None, float | None], None]
"""Called after each boosting round with its number from 0, the training loss and the validation loss."""

# XGBoost does not say which of its metrics are better when they are larger.
_XGBOOST_SCORES = ("auc", "aucpr", "map", "ndcg", "pre")


@dataclass(frozen=True)
class FittedEstimator:
    library: Library  # the library that the estimator belongs to
    model: Any  # the object to save: a Booster with the kept rounds only, or the scikit-learn estimator itself
    rounds: int = 0  # boosting rounds that were fitted; 0 for scikit-learn
    best_round: int = 0  # number of the last round that is kept, from 0
    loss: str = ""  # name of the loss that the library reported each round; "" without one


def library_of(estimator: Any) -> Library:
    """The library of an estimator or of one of its base classes; "sklearn" for all but LightGBM and XGBoost."""
    packages = {base.__module__.partition(".")[0] for base in type(estimator).__mro__}
    if "lightgbm" in packages:
        return "lightgbm"
    return "xgboost" if "xgboost" in packages else "sklearn"


def num_rounds(estimator: Any) -> int:
    """Boosting rounds that the estimator is set to fit; 0 for scikit-learn."""
    return int(getattr(estimator, "n_estimators", 0) or 0) if library_of(estimator) != "sklearn" else 0


def set_seed(estimator: Any, seed: int) -> Any:
    """Set every `random_state` that is None to the seed, those of nested estimators included."""
    own = estimator.get_params()
    open_states = [name for name in own if name.split("__")[-1] == "random_state" and own[name] is None]
    return estimator.set_params(**dict.fromkeys(open_states, seed)) if open_states else estimator


def fit(
    estimator: Any,
    names: tuple[str, ...],
    train: Matrix,
    validation: Matrix,
    *,
    patience: int | None,
    ended: Round,
    categories: Sequence[int] = (),
    places: int = DEFAULT_PLACES,
) -> FittedEstimator:
    """Fit on the training rows; LightGBM and XGBoost evaluate the validation rows after each round and call `ended`.

    A ranker gets the sizes of the requests, and is evaluated by nDCG of the first `places`, whose loss is 1 - nDCG.
    LightGBM splits columns of `categories` as such, the others by the order of codes.
    """
    library = library_of(estimator)
    if library == "lightgbm":
        return _fit_lightgbm(estimator, names, train, validation, patience, ended, categories, places)
    if library == "xgboost":
        return _fit_xgboost(estimator, names, train, validation, patience, ended, places)
    estimator.fit(train.features, train.label, **_weight_argument(estimator, train))
    return FittedEstimator(library, estimator)


def refit(
    estimator: Any, names: tuple[str, ...], rows: Matrix, *, rounds: int, categories: Sequence[int] = ()
) -> FittedEstimator:
    """Fit on all rows with a number of boosting rounds, and without validation rows, so that nothing stops earlier.

    The arguments are those of `fit`; scikit-learn has no rounds.
    """
    library = library_of(estimator)
    if library == "lightgbm":
        return _refit_lightgbm(estimator, names, rows, rounds, categories)
    if library == "xgboost":
        return _refit_xgboost(estimator, names, rows, rounds)
    estimator.fit(rows.features, rows.label, **_weight_argument(estimator, rows))
    return FittedEstimator(library, estimator)


def _weight_argument(estimator: Any, train: Matrix) -> dict[str, Any]:
    """The argument of `fit` with the rows' weights; of a scikit-learn pipeline, that of its last step."""
    if train.weight is None:
        return {}
    steps = getattr(estimator, "steps", None)
    return {f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": train.weight}


def _fit_lightgbm(
    estimator: Any,
    names: tuple[str, ...],
    train: Matrix,
    validation: Matrix,
    patience: int | None,
    ended: Round,
    categories: Sequence[int],
    places: int,
) -> FittedEstimator:
    import lightgbm

    followed, rounds, ranks = "", 0, is_ranker(estimator)

    def follow(round_: Any) -> None:
        nonlocal followed, rounds
        rounds = round_.iteration + 1
        losses = _losses(round_.evaluation_result_list, ranks)
        followed = followed or next(iter(losses), "")
        trained = _losses(round_.model.eval_train(), ranks) if followed else {}
        ended(round_.iteration, trained.get(followed), losses.get(followed))

    _make_repeatable(estimator)
    stop = [lightgbm.early_stopping(patience, verbose=False)] if patience else []
    # LightGBM 4.7 renamed the argument and warns about the former name.
    renamed = "eval_X" in signature(estimator.fit).parameters
    held_out: dict[str, Any] = (
        {"eval_X": validation.features, "eval_y": validation.label}
        if renamed
        else {"eval_set": [(validation.features, validation.label)]}
    )
    if train.weight is not None:
        held_out = {**held_out, "sample_weight": train.weight, "eval_sample_weight": [validation.weight]}
    if ranks:
        held_out |= {"group": train.sizes, "eval_group": [validation.sizes], "eval_at": (places,)}
    estimator.fit(
        train.features,
        train.label,
        feature_name=list(names),
        eval_names=["validation"],
        callbacks=[follow, *stop],
        categorical_feature=list(categories) or "auto",
        **held_out,
    )
    booster = estimator.booster_  # with the kept rounds only
    return FittedEstimator("lightgbm", booster, rounds, booster.current_iteration() - 1, followed)


def _make_repeatable(estimator: Any) -> None:
    # Without these two, equal inputs can give different trees in another run.
    repeatable = {"deterministic": True, "force_row_wise": True}
    known = estimator.get_params()
    chosen = any(name in known for name in (*repeatable, "force_col_wise"))
    estimator.set_params(**({} if chosen else repeatable))


_ROUNDS = ("num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds",
           "num_boost_round", "max_iter")  # fmt: skip
"""LightGBM's other names of `n_estimators`, which go before it."""
_STOPPING = ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change")


def _refit_lightgbm(
    estimator: Any, names: tuple[str, ...], rows: Matrix, rounds: int, categories: Sequence[int]
) -> FittedEstimator:
    _make_repeatable(estimator)
    known = estimator.get_params()
    changed = {name: rounds for name in _ROUNDS if name in known} | {name: 0 for name in _STOPPING if name in known}
    estimator.set_params(n_estimators=rounds, **changed)
    estimator.fit(
        rows.features,
        rows.label,
        sample_weight=rows.weight,
        feature_name=list(names),
        categorical_feature=list(categories) or "auto",
        **({"group": rows.sizes} if is_ranker(estimator) else {}),
    )
    return FittedEstimator("lightgbm", estimator.booster_, rounds, estimator.booster_.current_iteration() - 1)


def is_ranker(estimator: Any) -> bool:
    """True of a ranker, whose `fit` takes the number of rows of each request."""
    return "group" in signature(estimator.fit).parameters


def _losses(evaluated: Sequence[tuple[str, str, float, bool]], ranks: bool) -> dict[str, float]:
    """LightGBM's metrics that are better if smaller, by name; of a ranker 1 - nDCG."""
    if ranks:
        return {f"1 - {name}": 1 - value for _, name, value, _ in evaluated if name.startswith("ndcg")}
    return {name: value for _, name, value, more_is_better in evaluated if not more_is_better}


def _fit_xgboost(
    estimator: Any,
    names: tuple[str, ...],
    train: Matrix,
    validation: Matrix,
    patience: int | None,
    ended: Round,
    places: int,
) -> FittedEstimator:
    import xgboost

    followed, ranks = "", is_ranker(estimator)

    class Follow(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            nonlocal followed
            trained, held_out = evals_log["validation_0"], evals_log["validation_1"]
            losses = [name for name in held_out if name.startswith("ndcg" if ranks else _XGBOOST_SCORES) == ranks]
            followed = followed or next(iter(losses), "")
            last = [found[followed][-1] for found in (trained, held_out)] if followed else [None, None]
            ended(epoch, *(1 - value if ranks and value is not None else value for value in last))
            return False

    settings: dict[str, Any] = {"callbacks": [*(estimator.callbacks or ()), Follow()]}
    if patience and estimator.early_stopping_rounds is None:
        settings["early_stopping_rounds"] = patience
    if ranks and estimator.eval_metric is None:
        settings["eval_metric"] = f"ndcg@{places}"
    estimator.set_params(**settings)
    evaluated = [(train.features, train.label), (validation.features, validation.label)]
    own = [each.weight_of_requests if ranks else each.weight for each in (train, validation)]
    told: dict[str, Any] = {"sample_weight": own[0], "sample_weight_eval_set": own} if train.weight is not None else {}
    if ranks:
        told |= {"group": train.sizes, "eval_group": [train.sizes, validation.sizes]}
    estimator.fit(train.features, train.label, eval_set=evaluated, verbose=False, **told)
    booster = estimator.get_booster()
    rounds = booster.num_boosted_rounds()
    kept = estimator.best_iteration + 1 if estimator.early_stopping_rounds else rounds
    booster = booster[:kept] if kept < rounds else booster
    booster.feature_names = list(names)
    return FittedEstimator("xgboost", booster, rounds, kept - 1, f"1 - {followed}" if ranks and followed else followed)


def _refit_xgboost(estimator: Any, names: tuple[str, ...], rows: Matrix, rounds: int) -> FittedEstimator:
    import xgboost

    kept = [each for each in estimator.callbacks or () if not isinstance(each, xgboost.callback.EarlyStopping)]
    estimator.set_params(n_estimators=rounds, early_stopping_rounds=None, callbacks=kept or None)
    ranks = is_ranker(estimator)
    estimator.fit(
        rows.features,
        rows.label,
        sample_weight=rows.weight_of_requests if ranks else rows.weight,
        verbose=False,
        **({"group": rows.sizes} if ranks else {}),
    )
    booster = estimator.get_booster()
    booster.feature_names = list(names)
    return FittedEstimator("xgboost", booster, rounds, booster.num_boosted_rounds() - 1)
