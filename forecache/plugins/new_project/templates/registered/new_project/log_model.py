"""Log a model as another team would, with MLflow alone, unless there is one: `python -m new_project.log_model`."""

from datetime import timedelta
from typing import Any

from forecache import load_settings
from new_project.landing import landing_days

NAME, ALIAS = "returns_model", "production"
FEATURES = ("orders_7d", "orders_28d", "spent_28d")
_HORIZON_DAYS = 7


def training_rows() -> tuple[list[list[float]], list[bool]]:
    """Features of each customer seven days ago, of the 28 days before, and whether it has ordered since."""
    days = [(day, rows) for _, day, rows in landing_days()]
    as_of = days[-1][0] - timedelta(days=_HORIZON_DAYS)
    features: dict[str, list[float]] = {}
    returned = set()
    for day, rows in days:
        for _, customer, _, amount, _ in rows:
            if day > as_of:
                returned.add(customer)
            elif day > as_of - timedelta(days=28):
                of_customer = features.setdefault(customer, [0.0, 0.0, 0.0])
                of_customer[0] += day > as_of - timedelta(days=7)
                of_customer[1] += 1
                of_customer[2] += amount
    return list(features.values()), [customer in returned for customer in features]


def log_model(client: Any) -> int:
    """Fit and register a model under the alias; returns its version."""
    import mlflow
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    rows, returned = training_rows()
    features = pd.DataFrame(rows, columns=list(FEATURES))
    model = LogisticRegression(max_iter=1000).fit(features, returned)
    logged = mlflow.sklearn.log_model(
        model,
        name="model",
        serialization_format="skops",  # no pickle has to be trusted
        pyfunc_predict_fn="predict_proba",
        signature=mlflow.models.infer_signature(features, model.predict_proba(features)),
        registered_model_name=NAME,
    )
    client.set_registered_model_alias(NAME, ALIAS, logged.registered_model_version)
    return int(logged.registered_model_version)


def main() -> None:
    import mlflow

    mlflow.set_tracking_uri(load_settings().mlflow_tracking_uri)
    client = mlflow.MlflowClient()
    if client.search_registered_models(f"name = '{NAME}'"):
        print(f"{NAME} is registered already")
    else:
        print(f"{NAME} {log_model(client)} is registered, and is {ALIAS!r}")


if __name__ == "__main__":
    main()
