"""What makes the training set of a real-time model stale, and what does not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from offered_project.pipelines.offers import offers
from offered_project.views import VISITS
from offered_sample import NIGHT

from forecache.base.settings import Settings
from forecache.declare import Candidates, Gate, Lookup, Realtime, RequestField, Window
from forecache.lake.sources import Pins
from forecache.plugins.realtime_examples.build import examples_inputs
from forecache.plugins.realtime_examples.requests import request_days

EXAMPLES = offers.trained_examples
FIRST = offers.lookups[0]
assert offers.candidates is not None


def other_transform(rows: Any) -> np.ndarray:
    return np.zeros((len(rows), len(offers.features)), np.float32)


def other_compute(rows: Any, first: Any, last: Any) -> Any:
    return rows["shown"]


def with_window(window: Window) -> Lookup:
    return replace(FIRST, view=replace(FIRST.view, windows=(window, FIRST.view.windows[1])))


STALE: dict[str, dict[str, Any]] = {
    "transform": {"transform": other_transform},
    "compute": {"examples": replace(EXAMPLES, compute=other_compute)},
    "test days": {"examples": replace(EXAMPLES, test_days=3)},
    "horizon": {"examples": replace(EXAMPLES, horizon_days=0)},
    "history": {"examples": replace(EXAMPLES, history_days=2)},
    "published": {"examples": replace(EXAMPLES, published_h=3.0)},
    "window of a view": {"lookups": (with_window(Window("spend_3d", "sum", 4, "spend")), *offers.lookups[1:])},
    "age of features": {"lookups": (replace(FIRST, max_age_h=8.0), *offers.lookups[1:])},
    "default of a field": {
        "request": (offers.request[0], RequestField("channel", "string", default="app"), offers.request[2])
    },
    "most candidates": {"candidates": replace(offers.candidates, most=10)},
}
CURRENT: dict[str, dict[str, Any]] = {
    "gate": {"gate": Gate("mrr", {})},
    "deadline": {"deadline_ms": 5.0},
    "description": {"description": "What is offered."},
    "description of a field": {"request": (replace(offers.request[0], description="Who asks."), *offers.request[1:])},
    "where it runs": {"runs": "process"},
    "name of the list": {"candidates": Candidates(offers.candidates.fields, name="offers", most=12)},
}


def inputs(settings: Settings, realtime: Realtime) -> str:
    return examples_inputs(settings, realtime, NIGHT, request_days(realtime, NIGHT), Pins(settings))


@pytest.mark.parametrize("change", STALE)
def test_what_past_requests_would_have_seen_makes_them_stale(settings: Settings, change: str) -> None:
    assert inputs(settings, replace(offers, **STALE[change])) != inputs(settings, offers)


@pytest.mark.parametrize("change", CURRENT)
def test_what_they_do_not_depend_on_does_not(settings: Settings, change: str) -> None:
    assert inputs(settings, replace(offers, **CURRENT[change])) == inputs(settings, offers)


def test_another_night_has_other_requests(settings: Settings) -> None:
    later = NIGHT.replace(day=NIGHT.day + 1)
    days = request_days(offers, later)
    assert examples_inputs(settings, offers, later, days, Pins(settings)) != inputs(settings, offers)
    assert VISITS in offers.all_sources
