"""The runtimes of estimators, in the order in which a model is offered to them, and their files as models of MLflow."""

from pathlib import Path
from typing import Any

from forecache.plugins.estimators.boosters import LIGHTGBM, XGBOOST
from forecache.plugins.estimators.skops_files import SAFE_TYPES, SKLEARN, SKOPS, load_skops

RUNTIMES = (LIGHTGBM, XGBOOST, SKLEARN, SKOPS)


def log_file(runtime: str, path: Path, **common: Any) -> Any:
    """Log the file of an estimator in the flavour of its library, with the arguments of MLflow that all have."""
    return {"lightgbm": _log_lightgbm, "xgboost": _log_xgboost, "sklearn": _log_sklearn}[runtime](path, **common)


def _log_lightgbm(path: Path, **common: Any) -> Any:
    import lightgbm
    import mlflow.lightgbm

    return mlflow.lightgbm.log_model(lightgbm.Booster(model_file=path), **common)


def _log_xgboost(path: Path, **common: Any) -> Any:
    import mlflow.xgboost
    import xgboost

    return mlflow.xgboost.log_model(xgboost.Booster(model_file=str(path)), model_format="json", **common)


def _log_sklearn(path: Path, **common: Any) -> Any:
    import mlflow.sklearn

    estimator = load_skops(path.read_bytes())
    predict = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    return mlflow.sklearn.log_model(
        estimator,
        serialization_format="skops",
        skops_trusted_types=list(SAFE_TYPES),
        pyfunc_predict_fn=predict,
        **common,
    )
