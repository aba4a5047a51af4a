"""What a household is likely to buy next, every night, from a year of purchases (84.51°, "Complete Journey", 2017)."""

from datetime import date

from forecache import Als, Column, Habits, Popularity, Publish, RankingGate, Recommender, Source, WithFallback

PURCHASES = Source(
    name="purchases",
    description="Products that households bought, one row for each product of a basket.",
    columns=(
        Column("household", "int", description="Number of the household."),
        Column("store", "int", description="Number of the store."),
        Column("basket", "bigint", description="Number of the basket."),
        Column("product", "string", description="Its kind and number."),
        Column("kind", "string", description="What kind of product it is, finer than its category."),
        Column("category", "string", description="Its category."),
        Column("maker", "int", description="Number of its maker; 0: unknown."),
        Column("quantity", "int", minimum=0),
        Column("price", "double", required=False, description="Of one piece, as paid, in dollars."),
        Column("discount", "double", required=False, description="What the shop took off that price."),
        Column("bought_on", "int", description="Its day, in days since 1970."),
        Column("bought_at", "timestamp"),
    ),
    event_time="bought_at",
    start=date(2017, 1, 1),
    end=date(2017, 12, 31),
)

recommended = Recommender(
    name="recommended",
    description="Fifty products for each household: what it buys again, then what others buy.",
    source=PURCHASES,
    user="household",
    item="product",
    model=WithFallback(Habits(half_lives_days=(60.0, 240.0), popularity=0.1), Popularity(half_life_days=30.0)),
    k=50,
    group="category",
    most_of_group=5,
    similar_items=10,
    gate=RankingGate(metric="ndcg", at=10, test_days=31),
    publish=Publish(max_age_h=36, on_stale="flag"),
)

tastes = Recommender(
    name="tastes",
    description="Vectors of households and products, for search where its model cannot answer.",
    source=PURCHASES,
    user="household",
    item="product",
    model=Als(factors=32, iterations=8),
    vectors=True,
    gate=RankingGate(metric="ndcg", at=10, test_days=31, margin=None),
    publish=Publish(max_age_h=36, on_stale="flag"),
)
