"""The model that is logged takes the features that the pipeline computes."""

from new_project.log_model import ALIAS, FEATURES, NAME, training_rows
from new_project.pipelines.returns import returns


def test_the_pipeline_applies_what_is_logged() -> None:
    assert returns.model.uri == f"models:/{NAME}@{ALIAS}"
    assert returns.feature_names == FEATURES


def test_the_training_rows_have_both_outcomes_and_consistent_counts() -> None:
    rows, returned = training_rows()
    assert len(rows) == len(returned) > 100
    assert 0.05 < sum(returned) / len(returned) < 0.95
    assert all(orders_7d <= orders_28d and spent > 0 for orders_7d, orders_28d, spent in rows)
