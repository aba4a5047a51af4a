"""MovieLens 100k, as the example `examples/movielens` reads it from a PyPI package (`peers_env.sh movielens`)."""

import importlib
import sys
from pathlib import Path

from forecache import Recommender
from forecache.plugins.recommend.interactions import Interactions

_ROOT = Path(__file__).resolve().parents[2]
PLACES = (_ROOT / ".tools" / "movielens", _ROOT / "examples" / "movielens")


def example() -> Recommender:
    """The declaration of the example."""
    sys.path.extend(str(place) for place in PLACES if str(place) not in sys.path)
    importlib.invalidate_caches()  # Python remembers a folder that was not there, and passes over it once it is
    from movielens.pipelines.films import films

    return films


def movielens() -> Interactions:
    """100,000 ratings from 1 to 5, the weights, by 943 users of 1,682 films."""
    films = example()
    from movielens.pipelines.films import ratings

    found = Interactions.from_table(
        ratings(), user=films.user, item=films.item, weight=films.weight, time=films.source.event_time
    )
    assert (len(found), found.num_users, found.num_items) == (100_000, 943, 1_682)
    return found
