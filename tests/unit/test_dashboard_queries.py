"""The pictures of the dashboard: every panel is in one of them, and values are written in the panel's unit."""

import pytest
from dashboard_queries import PICTURES, section
from dashboard_units import in_unit
from monitoring_services import DASHBOARD


def test_every_panel_is_in_one_picture() -> None:
    panels = DASHBOARD["panels"]
    shown = [panel["id"] for _, first, last in PICTURES for panel in section(panels, first, last)]
    assert sorted(shown) == sorted(panel["id"] for panel in panels)


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.9996, "percentunit", "99.96 %"),
        (0.00025, "s", "250 µs"),
        (0.0416, "s", "41.6 ms"),
        (79_200.0, "s", "22 h"),
        (-259_200.0, "s", "-3 days"),
        (3 * 2.0**20, "bytes", "3 MiB"),
        (12.34, "reqps", "12.3 req/s"),
        (2400.0, "none", "2,400"),
        (float("nan"), "s", "–"),
    ],
)
def test_values_are_written_in_the_unit_of_the_panel(value: float, unit: str, written: str) -> None:
    assert in_unit(value, unit) == written
