"""Ranking of a household's candidates: two published views, and the same request answered by several models."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from bench_ranking import faults
from forecache.declare import Column, Feature, Features, FeatureView, Log, Publish, Source
from forecache.declare.models.applied import FunctionModel, RegisteredModel
from forecache.declare.realtime.lookups import Lookup, OrderGiven, Precomputed, Stored
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.declare.realtime.request_rows import Rows

NIGHT = date(2026, 1, 31)
HOUSEHOLD_FEATURES = tuple(f"h{number}" for number in range(8))
PRODUCT_FEATURES = tuple(f"p{number:02}" for number in range(24))
WIDE_FEATURES = tuple(f"w{number:02}" for number in range(32))


def written_beside(*_: Any) -> Any:
    """The benchmark writes the feature tables itself."""
    raise AssertionError


def view(name: str, features: Sequence[str]) -> FeatureView:
    key = f"{name}_id"
    source = Source(f"{name}_events", (Column(key, "bigint"), Column("day", "date")), "day", start=date(2026, 1, 1))
    declared = Features(compute=written_beside, columns=tuple(map(Feature, features)))
    return FeatureView(name, (key,), (source,), declared, publish=Publish(max_row_change=None, max_psi=None, keep=2))


household = view("household", HOUSEHOLD_FEATURES)
product = view("product", PRODUCT_FEATURES)
wide = view("wide", WIDE_FEATURES)


def features(rows: Rows) -> np.ndarray:
    """The household's features, then the product's, float32 [n, 32]."""
    found = np.empty((len(rows), 32), np.float32)
    found[:, :8] = rows.view("household")
    found[:, 8:] = rows.view("product")
    return found


def realtime(name: str, model: Any, **others: Any) -> Realtime:
    return Realtime(
        name,
        request=(RequestField("household_id", "bigint"),),
        candidates=Candidates((RequestField("product_id", "bigint"),)),
        lookups=(Lookup(household), Lookup(product)),
        transform=features,
        features=tuple(map(Feature, (*HOUSEHOLD_FEATURES, *PRODUCT_FEATURES))),
        model=model,
        fallbacks=(Precomputed(Stored("product", ("product_id",), "p00")), OrderGiven()),
        **others,
    )


network = realtime("network", RegisteredModel("models:/network@champion"))
logged = realtime("logged", RegisteredModel("models:/network@champion"), log=Log("household_id"))
trees = realtime("trees", RegisteredModel("models:/trees@champion"))
CACHE_BYTES = 6 << 20
"""Some 10,000 answers to 50 candidates."""
network_cached = realtime("network_cached", RegisteredModel("models:/network@champion"), cache_bytes=CACHE_BYTES)
trees_cached = realtime("trees_cached", RegisteredModel("models:/trees@champion"), cache_bytes=CACHE_BYTES)
faulty = realtime("faulty", FunctionModel(faults.model))
