"""Parameters of the model."""

from typing import Any

from planned_project.constants import leaves


def tree_parameters() -> dict[str, Any]:
    """Parameters of LightGBM."""
    return {"n_estimators": 20, "num_leaves": leaves(), "verbose": -1}
