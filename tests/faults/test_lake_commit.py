"""Tables that two processes write at the same instant hold each row once, and say who was faster."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lake_race import write_at_once
from warm import assert_valid_log, processes, start

from forecache.base.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.faults]

_ROUNDS = 20


@pytest.fixture
def said(settings: Settings) -> list[tuple[list[str], ...]]:
    """What each of two processes was told of the days that it replaced, round by round."""
    barrier = processes().Barrier(2)
    pipes = [processes().Pipe(duplex=False) for _ in range(2)]
    started = [
        start(write_at_once, settings.home, process, _ROUNDS, barrier, theirs)
        for process, (_, theirs) in enumerate(pipes)
    ]
    for _, theirs in pipes:
        theirs.close()
    heard = [tuple(_heard(ours) for ours, _ in pipes) for _ in range(_ROUNDS)]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    return heard


def _heard(pipe: Any) -> Any:
    assert pipe.poll(120), "a process says nothing"
    return pipe.recv()


def test_tables_that_two_processes_write_at_once_hold_each_row_once(
    settings: Settings, said: list[tuple[list[str], ...]]
) -> None:
    for number, both in enumerate(said):
        for step, (one, two) in enumerate(zip(*both, strict=True)):
            loser = 0 if one else 1
            assert not (two if loser == 0 else one)
            faster = f"process {1 - loser}"
            if step < 2:  # equal inputs: the slower one takes over
                assert both[loser][step] == faster
            else:
                assert f"Run '{faster}' was faster: it changed as_of 2026-01-01" in both[loser][step]
        uri = settings.table_uri(f"days_{number}")
        assert_valid_log(uri)
        days = DeltaTable(uri)
        assert days.version() == 2
        table = days.to_pyarrow_table()
        assert (sorted(table["key"].to_pylist()), len(set(table["by"].to_pylist()))) == (_keys(20), 1)
        feed = pa.table(days.load_cdf(starting_version=0).read_all())
        assert Counter(feed["_change_type"].to_pylist()) == {"insert": 60, "delete": 40}
        assert Counter(_column(settings, f"new_{number}", "key")) == dict.fromkeys(_keys(20), 2)
        assert_valid_log(settings.table_uri(f"new_{number}"))


def _keys(count: int) -> list[str]:
    return sorted(f"k{i}" for i in range(count))


def _column(settings: Settings, name: str, column: str) -> list[str]:
    return DeltaTable(settings.table_uri(name)).to_pyarrow_table()[column].to_pylist()
