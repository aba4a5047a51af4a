"""The rule and the features of a request."""

import numpy as np

from forecache import Rows
from new_project.scoring import accepts, basket_features


def ask(basket: float, orders: float, usual: float) -> Rows:
    view, columns = np.array([[orders, usual]], np.float32), {"basket": np.array([basket])}
    return Rows(1, columns, {"customer": view}, {}, {"customer": {"orders_28d": 0, "mean_amount_28d": 1}})


def test_the_basket_is_compared_with_the_customers_usual_amount() -> None:
    assert basket_features(ask(30.0, 4.0, 20.0)).tolist() == [[4.0, 1.5]]
    assert np.isnan(basket_features(ask(30.0, np.nan, np.nan))).all()


def test_loyal_customers_accept_more_and_large_baskets_less() -> None:
    few, many = (accepts({"orders_28d": np.array([n]), "basket_of_usual": np.array([1.0])}) for n in (1.0, 8.0))
    large = accepts({"orders_28d": np.array([8.0]), "basket_of_usual": np.array([4.0])})
    assert 0 < few[0] < many[0] < 1
    assert large[0] < many[0]
