"""What the proof on a cluster compares and looks for."""

from collections import Counter
from datetime import timedelta

import pytest
from _bank.payments import START, landing_file, messages_of, payments_of
from _cluster.comparison import compare_counts
from _cluster.proof import FIRST_NIGHT, Size
from _cluster.waits import find_awaited_hosts, last_line

from forecache.kit.lease import this_process


def test_rows_that_are_missing_doubled_or_different_are_each_a_difference() -> None:
    rows = Counter({"a": 1, "b": 2})
    assert compare_counts("table", rows, Counter(rows)) == []
    [lost] = compare_counts("table", rows, Counter({"a": 1, "b": 1}))
    assert lost.startswith("table: 1 of 3 rows missing, 0 others, 0 doubled")
    [doubled] = compare_counts("table", rows, Counter({"a": 2, "b": 2}))
    assert doubled.startswith("table: 0 of 3 rows missing, 1 others, 1 doubled")
    [different] = compare_counts("table", rows, Counter({"c": 1, "b": 2}))
    assert different.startswith("table: 1 of 3 rows missing, 1 others, 0 doubled")
    assert "- a" in different
    assert "+ c" in different


def test_what_a_waiting_machine_prints_names_the_machine_that_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "night-a-3")
    holder = this_process("store/user_risk", "publish", "")
    assert find_awaited_hosts(last_line(f"[  4.1 s]   waiting for {holder}\n\n")) == ["night-a-3"]
    runs = "run 1 (process 7 on night-b-1), run 2 (process 7 on night-a-3, silent for 20 s)"
    pool = f"waiting for a place in the pool spark, taken by {runs}"
    assert find_awaited_hosts(last_line(f"[  4.1 s]   {pool}\n")) == ["night-b-1", "night-a-3"]
    assert find_awaited_hosts(last_line("[  4.1 s]   checking raw_payments\n")) == []


def test_the_bank_has_the_same_payments_each_time_in_files_and_messages_and_no_number_twice() -> None:
    days = [START + timedelta(days=number) for number in range(30)]
    rows = [row for day in days for row in payments_of(day)]
    assert rows == [row for day in days for row in payments_of(day)]
    assert len({row[0] for row in rows}) == len(rows) > 1000
    assert landing_file(days[0]).count(b"\n") == len(payments_of(days[0])) + 2  # the header, and a bad row
    assert len(list(messages_of(days[0]))) == len(payments_of(days[0]))


def test_models_are_trained_on_the_first_day_and_each_fifth_after_it() -> None:
    size = Size(10, (), kills=0, every_s=1.0, trained_every_days=5)
    assert [size.job(night) == "full" for night in size.nights].index(True, 1) == 5
    assert size.job(FIRST_NIGHT) == "full"
