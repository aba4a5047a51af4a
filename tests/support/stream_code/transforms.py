"""The request transform of the payments that streams in tests answer."""

import numpy as np


def check(rows):  # type: ignore[no-untyped-def]
    """The amount, and what the customer has spent before; an amount of 666 is a fault of the transform."""
    if rows["amount"][0] == 666:
        raise ValueError("the number of the beast")
    view = rows.view("customer")
    return np.column_stack([rows["amount"], view[:, 0], view[:, 1], rows.found("customer")]).astype(np.float32)
