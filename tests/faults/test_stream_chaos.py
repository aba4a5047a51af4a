"""Streams whose processes are killed at random: the benchmark's sections `rewind` and `once` at their smallest."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _stream import home, once, report, rewind
from _stream.services import PROJECTS
from _stream.sizes import SIZES

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def this_tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes import the code of this checkout, and the benchmark's projects can be imported here."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.syspath_prepend(str(PROJECTS))
    for section in (once, rewind):
        monkeypatch.setattr(section, "_AHEAD_S", 5.0)  # for so few messages
    yield
    projects = {path.stem for path in PROJECTS.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in projects]:
        del sys.modules[name]


def all_met(name: str, section: dict[str, Any]) -> bool:
    """Whether every count that is asked for is as it has to be; times on a busy machine are not."""
    rows = report.rows_of(name, section)
    missed = [row.cells(spread=True) for row in rows if row.met is False and row.unit == ""]
    assert not missed, f"{missed}\n{section}"  # as one text, which pytest does not shorten
    return True


def test_no_update_is_lost_and_no_key_goes_back_while_publishes_and_kills_go_on(tmp_path: Path) -> None:
    section = rewind.measure(tmp_path, replace(SIZES["tiny"], rewind_s=16.0, rewind_kill_s=4.0))
    # A reader that stood still refuses what waited for too long; nothing else may fail.
    section["watched"]["problems"] -= section["watched"]["refused"]
    assert all_met("rewind", section)
    assert min(section["kills"].values()) >= 1, section["kills"]
    assert section["watched"]["answers"] > 1_000
    assert section["watched"]["with_payments"] > 100
    assert len(section["publishes"]) == 2


def test_each_event_has_one_row_whatever_is_killed_doubled_or_spoilt(spark: Any, tmp_path: Path) -> None:
    from _stream import prepare

    settings = home.settings_of(tmp_path / "home", "bench_scored")
    prepare.prepare(spark, settings, customers=200, terminals=20, payments=400, days=2)
    section = once.run(settings, replace(SIZES["tiny"], customers=200, terminals=20, once_kill_s=5.0))
    assert all_met("once", section)
    assert sum(section["kills"].values()) == 3, section["kills"]
    assert section["sent"]["repeat"] > 0
    assert section["sent"]["poison"] > 0
