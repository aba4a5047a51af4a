"""Random requests of a ranking model, with the keys, numbers and texts that are hard to carry, and its declaration."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
from asked_project.views import SALES, household, product
from hypothesis import strategies as st
from parity_code.transforms import FEATURES, mixed

from forecache.declare import (
    Baseline,
    Candidates,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Lookup,
    OrderGiven,
    Realtime,
    RequestField,
)

REQUEST = (
    RequestField("household_id", "bigint"),
    RequestField("weight", "double", default=0.25),
    RequestField("gold", "boolean", default=False),
    RequestField("city", "string", default="nowhere"),
    RequestField("at", "timestamp"),
    RequestField("on", "date", default=date(2026, 2, 28)),
    RequestField("chosen", "bigint", default=0),
)
CANDIDATES = Candidates(
    (
        RequestField("product_id", "string"),
        RequestField("price", "double", default=-0.0),
        RequestField("stock", "bigint", default=2**53 + 1),
    )
)
TINY, HUGE = float(np.float32(1e-45)), float(np.finfo(np.float32).max)
HOUSEHOLDS: Mapping[int, tuple[float, float]] = {
    1: (10.0, 2.0),
    2: (-0.0, float("nan")),
    2**53 + 1: (TINY, HUGE),
    -(2**63): (0.1, -0.0),
    2**63 - 1: (float("nan"), 1.0),
}
PRODUCTS: Mapping[str, tuple[float]] = {
    "a": (0.1,), "ä": (-0.0,), "a\u0308": (float("nan"),), "日本|語\\": (HUGE,), "😀": (TINY,), " ": (3.0,),
}  # fmt: skip


def taken(rows: Any, first: date, last: date) -> Any:
    raise NotImplementedError


def build() -> Any:
    raise NotImplementedError


declared = Realtime(
    name="parity",
    request=REQUEST,
    candidates=CANDIDATES,
    lookups=(Lookup(household), Lookup(product)),
    transform=mixed,
    features=tuple(map(Feature, FEATURES)),
    model=EstimatorModel(build),
    fallbacks=(OrderGiven(),),
    examples=Examples((SALES,), taken, label="taken", kind="ranking"),
    gate=Gate("ndcg@5", {"ndcg@5": 0.3}, baseline=Baseline("price")),
)

WHOLE = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(2**53 - 3, 2**53 + 3),
    st.sampled_from(sorted(HOUSEHOLDS)),
    st.integers(0, 9),
)
# JSON has no infinity, which the features of larger numbers are in float32.
NUMBER = st.one_of(st.floats(-3e38, 3e38), st.sampled_from([0.0, -0.0, 5e-324, 0.1, 16777217.0]))
ANY_NUMBER = st.one_of(st.floats(), st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 1e308]))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENT = st.datetimes(datetime(1960, 1, 2), datetime(2200, 1, 1), timezones=ZONES)


@dataclass(frozen=True)
class Asked:
    """A request; a field that is left out is null. In JSON, as the reader takes it, all numbers are finite."""

    request: Mapping[str, Any]
    candidates: list[Mapping[str, Any]]
    is_json: bool


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    is_json = draw(st.booleans())
    number = NUMBER if is_json else ANY_NUMBER
    optional = {
        "weight": number, "gold": st.booleans(), "city": TEXT,
        "on": st.dates(date(1600, 1, 1), date(2400, 1, 1)),
    }  # fmt: skip
    request = {"household_id": draw(WHOLE), "at": draw(MOMENT)}
    request |= {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    keys = st.one_of(st.sampled_from(sorted(PRODUCTS)), TEXT)
    candidates = []
    for product_id in draw(st.lists(keys, min_size=1, max_size=6, unique=True)):
        candidate = {"product_id": product_id}
        # A tensor holds a value for every candidate, JSON may leave some out.
        if not is_json or draw(st.booleans()):
            candidate |= {"price": draw(number), "stock": draw(WHOLE)}
        candidates.append(candidate)
    return Asked(request, candidates, is_json)
