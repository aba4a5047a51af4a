"""The commit that gives a table of an earlier version today's columns, killed at any step, or twice at once."""

import pytest
from earlier_tables import append_at_once, append_one, counted, some_rows, stored, write_as_earlier
from warm import assert_valid_log, log_of, processes, start

from forecache.base.settings import Settings
from forecache.kit.delta.small_tables import read_small_table
from forecache.kit.delta.tables import table_version

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NAME = "stage_ledger"
_FILES = 3


def read_rows(settings: Settings) -> list[dict[str, object]]:
    return read_small_table(settings, NAME, [])


def schema_changes(settings: Settings) -> int:
    """The commits that name the columns, after the one that created the table."""
    return sum("metaData" in action for actions in log_of(settings.table_uri(NAME)) for action in actions) - 1


@pytest.mark.parametrize(
    ("step", "times"),
    [*(("file written", number) for number in range(1, _FILES + 2)), ("decided", 1), ("committed", 1)],
)
def test_a_kill_at_any_step_leaves_the_old_table_or_the_new_one(settings: Settings, step: str, times: int) -> None:
    truth = some_rows(NAME, range(1, 40))
    write_as_earlier(settings, NAME, truth, files=_FILES)
    killed = start(append_one, settings.home_path, "killed", step, times)
    killed.join(120)
    assert killed.exitcode == -9
    is_renamed = step == "committed"
    found = read_rows(settings)
    added = [row for row in found if row["subject"] == "killed"]
    assert (len(added), table_version(settings, NAME)) == ((1, _FILES) if is_renamed else (0, _FILES - 1))
    assert counted([row for row in found if row not in added]) == counted(truth)
    next_one = start(append_one, settings.home_path, "next")
    next_one.join(120)
    assert next_one.exitcode == 0
    assert_valid_log(settings.table_uri(NAME))
    assert schema_changes(settings) == 1
    rows = stored(settings, NAME)
    assert counted([row for row in rows if row["subject"] not in ("killed", "next")]) == counted(truth)
    assert counted(rows) == counted(read_rows(settings))
    wanted = ["killed", "next"] if is_renamed else ["next"]
    assert sorted(row["subject"] for row in rows if row["subject"] in ("killed", "next")) == wanted


@pytest.mark.parametrize("attempt", range(5))
def test_two_processes_that_append_at_once_rename_once_and_lose_nothing(settings: Settings, attempt: int) -> None:
    truth = some_rows(NAME, range(1, 40))
    write_as_earlier(settings, NAME, truth, files=_FILES)
    assert counted(read_rows(settings)) == counted(truth)  # this process knows the old columns
    barrier = processes().Barrier(2)
    started = [start(append_at_once, settings.home_path, subject, barrier) for subject in ("one", "two")]
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    assert_valid_log(settings.table_uri(NAME))
    assert (table_version(settings, NAME), schema_changes(settings)) == (_FILES + 1, 1)
    rows = read_rows(settings)
    assert counted(rows) == counted(stored(settings, NAME))
    added = [row for row in rows if row["subject"] in ("one", "two")]
    assert sorted((row["subject"], row["commit_version"]) for row in added) in (
        [("one", _FILES), ("two", _FILES + 1)],
        [("one", _FILES + 1), ("two", _FILES)],
    )
    assert counted([row for row in rows if row not in added]) == counted(truth)
