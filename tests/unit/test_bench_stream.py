"""The benchmark of streams: what it sends, what it takes for right, and that it would see what is wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import ways  # noqa: E402  # the benchmarks are no package
from _stream import nights, processor, report, spoiled, swaps  # noqa: E402
from _stream.traffic import HOT_SHARE, Traffic, Truth  # noqa: E402
from _stream.watched import Watched  # noqa: E402

from forecache.kit.process.usage import tree_cpu_s  # noqa: E402

MACHINE = {
    "commit": "a", "dirty": False, "at": "2026-11-27T11:18:00+00:00", "processor": "x", "cores": 2, "busy_share": 0.0,
    "load": [0.1], "load_average": 0.1,
}  # fmt: skip
BEGIN_US = 1_800_000_000_000_000
TRAFFIC = Traffic(begin_us=BEGIN_US, rate=100.0, count=2_000, first=7, customers=400, hot=4, terminals=5)


def test_messages_are_the_payments_that_the_truth_is_made_of() -> None:
    payments = [json.loads(value) for _, value in TRAFFIC.messages()]
    assert [payment["transaction_id"] for payment in payments] == list(range(7, 2_007))
    numbers = TRAFFIC.numbers
    assert [payment["customer_id"] for payment in payments] == TRAFFIC.customer_of(numbers).tolist()
    assert [payment["amount"] for payment in payments] == TRAFFIC.amount_of(numbers).tolist()
    assert payments[1]["at"] == "2027-01-15T08:00:00.010000Z"
    assert TRAFFIC.due_us(np.array([7, 107])).tolist() == [BEGIN_US, BEGIN_US + 1_000_000]
    assert (TRAFFIC.amount_of(numbers) >= 1).all()
    hot = float((TRAFFIC.customer_of(numbers) < TRAFFIC.hot).mean())
    assert hot == pytest.approx(HOT_SHARE, abs=0.03)


def test_keys_of_messages_are_the_customers_so_that_each_has_one_partition() -> None:
    assert all(key == b"%d" % json.loads(value)["customer_id"] for key, value in TRAFFIC.messages())


def test_truth_tells_how_many_of_a_customers_payments_an_answer_holds() -> None:
    truth = Truth(TRAFFIC)
    assert truth.counts.sum() == TRAFFIC.count
    customer = 2
    mine = TRAFFIC.numbers[TRAFFIC.customer_of(TRAFFIC.numbers) == customer]
    amounts = TRAFFIC.amount_of(mine)
    for count in (0, 1, 5, len(mine)):
        assert truth.count_of(customer, float(amounts[:count].sum())) == count
    assert truth.count_of(customer, float(amounts[:5].sum()) + 0.5) is None
    assert truth.count_of(customer, float(amounts.sum()) + 1) is None
    assert truth.next_due_s(customer, 3) == TRAFFIC.due_us(mine[3:4])[0] / 1e6
    assert truth.next_due_s(customer, len(mine)) == np.inf


def test_answers_that_go_back_or_never_were_are_seen() -> None:
    watched = Watched(TRAFFIC)
    mine = TRAFFIC.numbers[TRAFFIC.customer_of(TRAFFIC.numbers) == 1]
    sums = np.cumsum(TRAFFIC.amount_of(mine)).tolist()
    fourth_due_s = float(TRAFFIC.due_us(mine[3:4])[0]) / 1e6
    for value in (nights.STEP * 2, sums[0], sums[2], sums[2]):
        watched.note(1, value, now=fourth_due_s + 5)
    assert (watched.answers, watched.back, watched.wrong) == (4, 0, 0)
    assert watched.behind_s[-1] == pytest.approx(5)
    watched.note(1, sums[1], now=0.0)
    assert watched.back == 1
    watched.note(1, nights.STEP, now=0.0)  # the batch row of a customer that has payments
    watched.note(1, None, now=0.0)
    assert watched.back == 3
    watched.note(1, sums[2] + 0.25, now=0.0)
    assert watched.wrong == 1
    assert watched.first_faults[0] == "customer 1 had 3 payments, and now has 2"


def test_requests_during_a_swap_are_told_from_those_beside_it(tmp_path: Path) -> None:
    log = tmp_path / "reader.log"
    log.write_text(
        "2027-01-15 08:00:00,500 INFO forecache.reader[7]: Serving spending version 1, ready after 0.300 s.\n"
        "2027-01-15 08:00:10,250 INFO forecache.reader[7]: Serving spending version 2, ready after 0.030 s.\n"
        "2027-01-15 08:00:10,300 INFO forecache.reader[7]: Serving customer version 9, ready after 0.500 s.\n"
        "2027-01-15 08:00:20,000 INFO forecache.reader[7]: Serving spending version 3, ready after 0.004 s.\n"
    )
    start = time.mktime((2027, 1, 15, 8, 0, 0, 0, 0, -1))
    found = swaps.read_swaps(log, since=start + 1)
    assert [(round(swap.began - start, 3), round(swap.ready - start, 3)) for swap in found] == [
        (10.22, 10.25), (19.996, 20.0),
    ]  # fmt: skip
    spans = [(start + at, start + at + took) for at, took in (
        (9.23, 0.002), (10.215, 0.001), (10.2195, 0.004), (10.24, 0.012), (10.2551, 0.5), (19.0, 0.003),
    )]  # fmt: skip
    figures = swaps.figures(found, spans)
    assert figures["swap_ms"] == pytest.approx([30, 4], abs=1e-3)
    assert figures["held_ms"] == pytest.approx([12], abs=1e-3), "no request met the second one"
    assert figures["beside_ms"] == pytest.approx([2, 3], abs=1e-3)


def test_careless_producer_sends_every_payment_once_and_some_again_afterwards() -> None:
    seen: set[bytes] = set()
    kinds: dict[str, int] = {}
    for message in spoiled.messages(TRAFFIC):
        kinds[message.kind] = kinds.get(message.kind, 0) + 1
        if message.kind == "event":
            assert message.value not in seen
            seen.add(message.value)
        elif message.kind == "repeat":
            assert message.value in seen
        else:
            assert message.value in spoiled.POISON
    assert kinds["event"] == TRAFFIC.count
    assert kinds["repeat"] > 10
    assert kinds["poison"] > 3


def test_schema_changes_keep_what_a_payment_says() -> None:
    _, value = next(TRAFFIC.messages())
    first, second, third = (json.loads(spoiled.changed(value, place)) for place in (0.0, 0.5, 0.9))
    assert second == {**first, "channel": "web", "device": {"os": 1}}
    assert third == {**first, "channel": None}
    assert [spoiled.channel_of(place) for place in (0.0, 0.5, 0.9)] == [None, "web", None]


def test_corrected_rows_stay_below_those_of_payments() -> None:
    stamps = nights.stamps(20, 1_000)
    assert stamps.sum() == 20 * 10
    assert (stamps * nights.STEP < 1).all()


def freshness(p99_ms: float, failed: int) -> dict[str, Any]:
    run = {
        "rate": 2_000.0, "seconds": 300.0, "p50_ms": 9.0, "p99_ms": p99_ms, "max_ms": 400.0, "sampled": 6_000,
        "generator_late_p99_ms": 1.5, "failed": failed,
    }  # fmt: skip
    return {
        "run": run, "sent": 600, "rows": 600, "distinct": 600, "tried": [run], "bound_ms": 1_000.0,
        "highest_rate": 8_000.0,
    }  # fmt: skip


def test_rows_of_freshness_say_what_is_missed() -> None:
    met = {row.key: row.met for row in report.rows_of("event", freshness(100.0, 0)) if row.key}
    assert met == {"p50": True, "p99": True, "highest": None}
    missed = [row for row in report.rows_of("event", freshness(200.0, 3)) if row.met is False]
    assert [row.key or row.what for row in missed] == ["p99", "Events asked for that were not answered"]
    assert missed[0].asked_text == "<= 150 ms **missed**"


def test_the_processor_time_of_a_process_holds_that_of_children_that_have_ended() -> None:
    spends = "(i=0; while ((i < 30000)); do ((i += 1)); done); echo done; read -r"
    with subprocess.Popen(["bash", "-c", spends], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        alone = psutil.Process(process.pid).cpu_times()
        assert psutil.Process(process.pid).children() == []
        assert tree_cpu_s(process.pid) >= alone.user + alone.system + 0.02
        process.communicate()
    with pytest.raises(psutil.NoSuchProcess):
        tree_cpu_s(process.pid)


def test_the_tailer_is_counted_apart_from_the_reader_that_started_it() -> None:
    waits = "read -r"
    starts = f"bash -c '{waits}; true' forecache stream tail --until-input-ends <&0 & echo $!; wait"
    with (
        subprocess.Popen(["bash", "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader,
        subprocess.Popen(["bash", "-c", waits], stdin=subprocess.PIPE) as other,
    ):
        assert reader.stdout is not None
        tailer = int(reader.stdout.readline())
        limit = time.monotonic() + 10  # the shell has forked, and may not have become the tailer yet
        while "tail" not in " ".join(psutil.Process(tailer).cmdline()) and time.monotonic() < limit:
            time.sleep(0.005)
        seen = processor.look(other.pid, reader.pid, other.pid)
        reader.communicate()
        other.communicate()
    assert seen.pids[processor.TAILER] == tailer
    assert set(seen.seconds) == set(processor.PROCESSES)


PIDS = {processor.ENGINE: 1, processor.TAILER: 2, processor.READER: 3, processor.BROKER: 4}


def look(seconds: float, **pids: int) -> processor.Look:
    return processor.Look({**PIDS, **pids}, {name: seconds * pid for name, pid in PIDS.items()})


def test_the_processor_time_of_a_process_that_was_started_anew_is_not_known() -> None:
    assert processor.used_s(look(1.0), look(3.0)) == {"engine": 2.0, "tailer": 4.0, "reader": 6.0, "broker": 8.0}
    found = processor.used_s(look(1.0), look(3.0, tailer=9))
    assert found == {"engine": 2.0, "tailer": None, "reader": None, "broker": 8.0}, "the reader has waited for it"
    run = {"events": 1_000, "processor_s": found}
    assert processor.core_hours_a_million(run, "engine") == pytest.approx(2.0 / 1_000 * 1e6 / 3600)
    assert processor.core_hours_a_million(run, "engine", "tailer") is None
    assert processor.core_hours_a_million({}, "engine") is None


def test_the_guide_says_what_engine_and_tailer_cost_and_the_broker_beside() -> None:
    section = {**freshness(100.0, 0), "machine": MACHINE, "size": "full"}
    found: dict[str, dict[str, Any]] = {"scoring": {}, "store": {}, "stream": {"event": section}, "realtime": {}}
    row = next(line for line in ways.table(found).splitlines() if "visible at once" in line)
    assert "| not measured |" in row, "a run of before it was measured"
    section["run"] |= {"events": 3_600, "processor_s": {"engine": 3.0, "tailer": 1.0, "reader": 2.0, "broker": 36.0}}
    row = next(line for line in ways.table(found).splitlines() if "visible at once" in line)
    assert "| 0.31 |" in row
    assert "broker 2.8, reader 0.15" in row
    rows = {row.key: row.ours.median for row in report.rows_of("event", section)}
    assert rows["the engine"] == pytest.approx(3.0 / 3_600 * 1e6 / 3600)
    assert rows["the broker"] == pytest.approx(36.0 / 3_600 * 1e6 / 3600)
