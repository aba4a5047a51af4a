"""Recommended: ten items for each customer, every night. Edit this file."""

from forecache import Als, Popularity, RankingGate, Recommender, WithFallback
from new_project.orders import ORDERS

recommended = Recommender(
    name="recommended",
    description="Ten items for each customer: of those that similar customers order, else the most popular ones.",
    source=ORDERS,
    user="customer",
    item="item",
    model=WithFallback(Als(factors=16, iterations=8), Popularity(half_life_days=14.0)),
    k=10,
    similar_items=5,
    # On made-up orders nothing is learned; with data of your own, `margin=0.0` asks to be better than both baselines.
    gate=RankingGate(metric="ndcg", at=10, test_days=14, margin=None),
)
