"""How suspicious a payment is: a function, answered for one payment."""

from asked_project import transforms
from asked_project.views import household
from forecache.pipeline import Default, Feature, FunctionModel, LastNight, Lookup, Realtime, RequestField, Stored

payments = Realtime(
    name="payments",
    request=(RequestField("household_id", "bigint"), RequestField("amount", "double")),
    lookups=(Lookup(household),),
    transform=transforms.paid,
    features=(Feature("amount"), Feature("spend_28d")),
    model=FunctionModel(transforms.suspicion),
    output="suspicion",
    ladder=(LastNight(Stored("household", ("household_id",), "visits_28d")), Default(0.5)),
)
