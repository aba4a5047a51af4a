"""Differences between LightGBM, XGBoost and scikit-learn: losses of each round, early stopping, and saving a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forecache.errors import CheckError
from forecache.files import replacing
from forecache.training.estimator.matrix import Matrix
from forecache.training.spec import MODEL_FILES

Library = Literal["lightgbm", "xgboost", "sklearn"]
Round = Callable[[int, float | None, float | None], None]
"""Called after each boosting round with its number from 0, the training loss and the validation loss."""

# XGBoost does not say which of its metrics are better when they are larger.
_XGBOOST_SCORES = ("auc", "aucpr", "map", "ndcg", "pre")


@dataclass(frozen=True)
class Fitted:
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


def seeded(estimator: Any, seed: int) -> Any:
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
) -> Fitted:
    """Fit on the training rows; LightGBM and XGBoost evaluate the validation rows after each round and call `ended`.

    Args:
        categories: Columns that hold codes of categories: LightGBM splits them as such, the others
            by the order of codes.
    """
    library = library_of(estimator)
    if library == "lightgbm":
        return _fit_lightgbm(estimator, names, train, validation, patience, ended, categories)
    if library == "xgboost":
        return _fit_xgboost(estimator, names, train, validation, patience, ended)
    estimator.fit(train.features, train.label, **_weight_argument(estimator, train))
    return Fitted(library, estimator)


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
) -> Fitted:
    import lightgbm

    followed, rounds = "", 0

    def follow(round_: Any) -> None:
        nonlocal followed, rounds
        rounds = round_.iteration + 1
        losses = {name: value for _, name, value, more_is_better in round_.evaluation_result_list if not more_is_better}
        followed = followed or next(iter(losses), "")
        trained = {name: value for _, name, value, _ in round_.model.eval_train()} if followed else {}
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
    return Fitted("lightgbm", booster, rounds, booster.current_iteration() - 1, followed)


def _fit_xgboost(
    estimator: Any, names: tuple[str, ...], train: Matrix, validation: Matrix, patience: int | None, ended: Round
) -> Fitted:
    import xgboost

    followed = ""

    class Follow(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            nonlocal followed
            trained, held_out = evals_log["validation_0"], evals_log["validation_1"]
            losses = [name for name in held_out if not name.startswith(_XGBOOST_SCORES)]
            followed = followed or next(iter(losses), "")
            ended(epoch, *((trained[followed][-1], held_out[followed][-1]) if followed else (None, None)))
            return False

    settings: dict[str, Any] = {"callbacks": [*(estimator.callbacks or ()), Follow()]}
    if patience and estimator.early_stopping_rounds is None:
        settings["early_stopping_rounds"] = patience
    estimator.set_params(**settings)
    evaluated = [(train.features, train.label), (validation.features, validation.label)]
    weights = {"sample_weight": train.weight, "sample_weight_eval_set": [train.weight, validation.weight]}
    weighted = weights if train.weight is not None else {}
    estimator.fit(train.features, train.label, eval_set=evaluated, verbose=False, **weighted)
    booster = estimator.get_booster()
    rounds = booster.num_boosted_rounds()
    kept = estimator.best_iteration + 1 if estimator.early_stopping_rounds else rounds
    booster = booster[:kept] if kept < rounds else booster
    booster.feature_names = list(names)
    return Fitted("xgboost", booster, rounds, kept - 1, followed)


def save(fitted: Fitted, folder: Path) -> Path:
    """Write the model file into the folder atomically; none of the formats is a pickle.

    Raises:
        CheckError: A scikit-learn estimator contains types that cannot be loaded without trusting code in the file.
    """
    path = folder / MODEL_FILES[fitted.library]
    with replacing(path) as unfinished:
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

    from forecache.inference.runtimes.sklearn import refuse_untrusted

    rows = _sample_rows(train.label)
    try:
        trial = clone(estimator).fit(train.features[rows], train.label[rows])
    except Exception:  # noqa: BLE001  (perhaps too few rows; the fit on all rows reports the error)
        return
    refuse_untrusted(_skops_of(trial))


def _sample_rows(label: np.ndarray) -> np.ndarray:
    """Indices of up to 256 rows, among them the first rows with the smallest and with the largest label."""
    ends = [np.flatnonzero(label == value)[:64] for value in (label.min(), label.max())]
    return np.unique(np.concatenate([np.arange(min(len(label), 128)), *ends]))


def _save_skops(estimator: Any, path: Path) -> None:
    from forecache.inference.runtimes.sklearn import load_skops

    payload = _skops_of(estimator)
    path.write_bytes(payload)
    load_skops(payload)


def _skops_of(estimator: Any) -> bytes:
    from forecache.inference.runtimes.sklearn import skops_io

    try:
        return bytes(skops_io().dumps(estimator))
    except (TypeError, NotImplementedError) as error:
        raise CheckError(
            f"The estimator cannot be saved without a pickle: {error}.",
            remedy="Build it of scikit-learn's own classes and functions.",
        ) from None
