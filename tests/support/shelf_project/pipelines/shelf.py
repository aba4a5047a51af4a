"""What to offer a customer next."""

from forecache import RankingGate, Recommender
from forecache.declare import Column, Source
from forecache.plugins.recommend.models import Ease, WithFallback
from shelf_project import FIRST, LAST

PURCHASES = Source(
    name="purchases",
    columns=(
        Column("customer", "string"),
        Column("article", "string"),
        Column("shelf", "string"),
        Column("quantity", "int", minimum=1),
        Column("day", "date"),
    ),
    event_time="day",
    start=FIRST,
    end=LAST,
)

offers = Recommender(
    name="offers",
    description="Articles that a customer has not bought yet.",
    source=PURCHASES,
    user="customer",
    item="article",
    weight="quantity",
    model=WithFallback(Ease(l2=20.0, weight_power=1.0)),
    k=10,
    exclude_days=None,
    group="shelf",
    most_of_group=6,
    similar_items=5,
    gate=RankingGate(test_days=14),
)
