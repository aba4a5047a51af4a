"""Differences between LightGBM, XGBoost and scikit-learn: losses of each round, early stopping, weights, requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

from forecache.base.ranking import DEFAULT_PLACES
from forecache.plugins.estimators.matrix import Matrix

Library = Literal["lightgbm", "xgboost", "sklearn"]
Round = Callable[[int, float | None, float | None], None]
"""Called after each boosting round with its number from 0, the training loss and the validation loss."""

# XGBoost does not say which of its metrics are better when they are larger.
_XGBOOST_SCORES = ("auc", "aucpr", "map", "ndcg", "pre")


@dataclass(frozen=True)
class FittedEstimator:
    """A fitted estimator and the library's account of the fit.

    Attributes:
        library: The library that the estimator belongs to.
        model: The object to save: a Booster with the kept rounds only, or the scikit-learn estimator itself.
        rounds: Boosting rounds that were fitted; 0 for scikit-learn.
        best_round: Number of the last round that is kept, from 0.
        loss: Name of the loss that the library reported each round; "" without one.
    """

    library: Library
    model: Any
    rounds: int = 0
    best_round: int = 0
    loss: str = ""


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

    A ranker gets the sizes of the requests, and is evaluated by nDCG, whose loss is 1 - nDCG.

    Args:
        categories: Columns that hold codes of categories: LightGBM splits them as such, the others
            by the order of codes.
        places: Of a ranking, the number of first places that its nDCG is about.
    """
    library = library_of(estimator)
    if library == "lightgbm":
        return _fit_lightgbm(estimator, names, train, validation, patience, ended, categories, places)
    if library == "xgboost":
        return _fit_xgboost(estimator, names, train, validation, patience, ended, places)
    estimator.fit(train.features, train.label, **_weight_argument(estimator, train))
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

    # Without these two, equal inputs can give different trees in another run.
    repeatable = {"deterministic": True, "force_row_wise": True}
    known = estimator.get_params()
    chosen = any(name in known for name in (*repeatable, "force_col_wise"))
    estimator.set_params(**({} if chosen else repeatable))
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
