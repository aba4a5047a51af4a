"""How suspicious a payment is: a function, answered for one payment. Declaration and transform stand in one file."""

import numpy as np

from asked_project import transforms
from asked_project.views import household
from forecache import Rows
from forecache.declare import Default, Feature, FunctionModel, Lookup, Precomputed, Realtime, RequestField, Stored


def paid(rows: Rows) -> np.ndarray:
    """[amount, spend of the household]."""
    return np.column_stack([rows["amount"], rows.feature("household", "spend_28d")])


payments = Realtime(
    name="payments",
    request=(RequestField("household_id", "bigint"), RequestField("amount", "double")),
    lookups=(Lookup(household),),
    transform=paid,
    features=(Feature("amount"), Feature("spend_28d")),
    model=FunctionModel(transforms.suspicion),
    output="suspicion",
    fallbacks=(Precomputed(Stored("household", ("household_id",), "visits_28d")), Default(0.5)),
)
