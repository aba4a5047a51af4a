"""The three ways of `make bench-features` make equal contents, and the benchmark itself runs."""

import sys
from datetime import timedelta
from typing import Any

import pytest

from forecache.base.settings import PROJECT_ROOT, Settings
from forecache.kit.delta.tables import open_table


def test_day_tiles_a_free_function_and_window_functions_make_the_same_rows(
    settings: Settings, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "benchmarks"))
    from _features.ways import NAMES, START, WAYS, land

    land(settings, events=1200, days=8)
    nights = [START + timedelta(days=number) for number in (5, 7)]
    found = []
    for build, table in WAYS.values():
        build(spark, settings, nights)
        rows = open_table(settings, table).to_pyarrow_table().select(["customer", "as_of", *NAMES])
        found.append(rows.sort_by([("customer", "ascending"), ("as_of", "ascending")]).to_pylist())
    assert len(found[0]) == 96
    assert found[0] == found[1] == found[2]
    for name in [name for name in sys.modules if name.partition(".")[0] == "_features"]:
        del sys.modules[name]
