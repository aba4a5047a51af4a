"""Declared windows that reach further back than the data before a training date are named, here and by `doctor`."""

from dataclasses import replace
from datetime import date

import pytest
from windowed_project.pipelines.spend import spend

from forecache.base.settings import Settings, load_settings
from forecache.lake.training_set import as_of_dates, find_short_histories
from forecache.plugins.doctor.training import check_training_dates


def warnings_as_of(night: date) -> list[str]:
    return find_short_histories(spend, as_of_dates(spend, night))


def test_a_window_longer_than_the_history_of_the_first_training_date_is_named() -> None:
    # Labels take two days, so that the three training dates are the 4th to the 6th of January; data start on the 1st.
    [warning] = warnings_as_of(date(2026, 1, 12))
    assert warning.startswith(
        "The window 'spent_7d' of 'customer' reaches 7 days back, and 'spend' trains on 2026-01-04"
    )
    assert "there are 4 days of data" in warning
    assert len(warnings_as_of(date(2026, 1, 14))) == 1
    assert warnings_as_of(date(2026, 1, 15)) == []


@pytest.mark.parametrize(("num_as_of", "state"), [(3, "ok"), (9, "warn")])
def test_doctor_looks_at_the_dates_of_the_next_training(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, num_as_of: int, state: str
) -> None:
    current = load_settings(home=settings.home_path, project="windowed_project")
    project = __import__("windowed_project.pipelines.spend", fromlist=["spend"])
    changed = replace(spend, training=replace(spend.training, num_as_of=num_as_of))
    monkeypatch.setattr(project, "spend", changed)
    assert check_training_dates(current).state == state
