"""The recommender reads the columns that landing files have."""

from new_project.orders import ORDERS
from new_project.pipelines.recommended import recommended


def test_users_and_items_are_columns_of_the_source() -> None:
    columns = {column.name for column in ORDERS.columns}
    assert {recommended.user, recommended.item} <= columns
