"""`python -m cards.demo.day`: stream a day of payments faster than it happened, and show how fresh the answers are."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cards.demo.page import plotted, write_day_page
from cards.demo.replay import make_topic, send
from cards.demo.watch import Reader, Seen, Watch
from cards.pipelines.card_fraud import card_fraud, cards
from cards.simulator import CUSTOMERS, Payments, Simulator
from forecache import Settings, UnavailableError, load_settings, query
from forecache.testing import ReaderProcess, read_state

_START_S, _STOP_S, _DRAIN_S, _SHOWN = 60.0, 20.0, 60.0, 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cards.demo.day", description=__doc__)
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="How many there are (default: %(default)s).")
    parser.add_argument("--day", type=date.fromisoformat, required=True, help="The day that is streamed.")
    parser.add_argument("--speed", type=float, default=1000.0, help="Times the speed of time (default: %(default)s).")
    options = parser.parse_args()
    settings = load_settings()
    payments = Simulator(options.customers).day(options.day)
    page = settings.home_path / "reports" / f"stream-{options.day}.html"
    make_topic(settings.kafka_brokers, cards.topic.topic)
    with _stream(settings), ReaderProcess(settings) as served:
        _stream_day(settings, served.address, payments, speed=options.speed, page=page)
    print(f"\nDelay and lag of the day: {page}")


def _stream_day(settings: Settings, address: str, payments: Payments, *, speed: float, page: Path) -> None:
    reader = Reader(address)
    customer = int(np.bincount(payments.customer).argmax())  # who pays most often on this day
    asked = {
        "customer_id": customer,
        "terminal_id": int(payments.terminal[payments.customer == customer][-1]),
        "amount": 90.0,
        "paid_at": f"{payments.day}T23:59:59Z",
    }
    before = _asked(reader, customer, asked)
    watch = Watch(address, lambda place: f"/v1/{cards.name}/{payments.ids[place]}", lambda: _lag(settings))
    sent = np.empty(len(payments.ids))

    def note(place: int, at: float) -> None:
        sent[place] = at - watch.began
        watch.sent(place, at)

    print(f"Streaming {len(sent):,} payments of {payments.day} at {speed:,.0f} times their speed", flush=True)
    with watch:
        seconds = send(settings.kafka_brokers, cards.topic.topic, payments, speed=speed, sent=note)
        _drained(settings, len(sent))
    after = _asked(reader, customer, asked)
    rows = _rows(settings, payments)
    _print(customer, before, after, watch.seen)
    write_day_page(page, plotted(watch.seen, sent, speed=speed), _values(payments, rows, watch.seen, before, after) | {
        "day": payments.day, "seconds": seconds, "speed": int(speed), "customer": customer,
        "night": payments.day - timedelta(days=1), "environment": settings.environment,
    })  # fmt: skip


def _asked(reader: Reader, customer: int, request: dict[str, Any]) -> dict[str, Any]:
    """The row of a customer, and the score of a payment that it might make."""
    found = {}
    for name, (status, answer) in {
        "customer": reader.get(f"/v1/customer/{customer}"),
        "card_fraud": reader.post(f"/v1/{card_fraud.name}", request),
    }.items():
        if status != 200:
            raise UnavailableError(f"The reader answered {status} of {name}: {json.dumps(answer)}.")
        found[name] = answer
    return found


def _rows(settings: Settings, payments: Payments) -> Any:
    """The rows of the day in the stream's table, `transaction_id` and score, in the order of the payments."""
    sql = f"""select transaction_id, {card_fraud.output} as score, release from stream_{cards.name}
        where event_day = date '{payments.day}' order by transaction_id"""
    rows = query(settings, sql)
    if rows["transaction_id"].to_pylist() != payments.ids.tolist():
        raise UnavailableError(
            f"The table stream_{cards.name} has {rows.num_rows:,} rows of {payments.day}, and not each of the "
            f"{len(payments.ids):,} payments once.",
            remedy=f"`forecache streams` says how the stream {cards.name!r} is.",
        )
    return rows


def _values(payments: Payments, rows: Any, seen: Seen, before: Any, after: Any) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score

    scores = rows["score"].to_numpy()
    delays = np.array([delay for _, delay in seen.delays])
    highest = np.argsort(-scores, kind="stable")[:_SHOWN]
    return {
        "events": len(scores),
        "scored": len(scores),
        "release": rows["release"][-1].as_py(),
        "table": f"stream_{cards.name}",
        "delays": len(delays),
        "median_s": float(np.median(delays)),
        "p99_s": float(np.percentile(delays, 99)),
        "most_lag": max((lag for _, lag in seen.lags), default=0),
        "answers": _compared(before, after),
        "frauds": int(payments.fraud.sum()),
        "average_precision": float(average_precision_score(payments.fraud, scores)),
        "highest": [
            {
                "transaction_id": int(payments.ids[place]),
                "at": str(payments.paid_at[place].astype("datetime64[s]"))[11:],
                "amount": float(payments.amount[place]),
                "score": float(scores[place]),
                "fraud": bool(payments.fraud[place]),
            }
            for place in highest
        ],
    }


def _compared(before: Any, after: Any) -> list[dict[str, Any]]:
    """The two answers side by side: where each is from, the features that differ, and the score that they give."""
    night, live = before["customer"], after["customer"]
    rows = [{"name": "source", "night": night["source"], "live": live["source"]}]
    rows += [
        {"name": name, "night": _short(value), "live": _short(live["value"][name])}
        for name, value in night["value"].items()
    ]
    scores = [each["card_fraud"]["value"][card_fraud.output] for each in (before, after)]
    rows.append({"name": "score of a payment of 90.00", "night": _short(scores[0]), "live": _short(scores[1])})
    return rows


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _print(customer: int, before: Any, after: Any, seen: Seen) -> None:
    delays = np.array([delay for _, delay in seen.delays]) * 1000
    median, late = np.median(delays), np.percentile(delays, 99)
    print(f"From sending to the score over HTTP: {median:,.0f} ms at the median, {late:,.0f} ms at the 99th percentile")
    print(f"\nGET /v1/customer/{customer}, before the day:\n{json.dumps(before['customer'])}")
    print(f"\nand now:\n{json.dumps(after['customer'])}")


@contextmanager
def _stream(settings: Settings) -> Iterator[None]:
    """`forecache stream` as a child process that has begun to read, stopped at the end."""
    log, began = settings.home_path / "stream.log", time.time()
    with open(log, "wb") as output:
        command = [sys.executable, "-m", "forecache.cli.main", "stream", cards.name]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        give_up = time.monotonic() + _START_S
        while (state := read_state(settings, cards.name)) is None or state.started_at < began:
            if process.poll() is not None or time.monotonic() > give_up:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise UnavailableError(
                    f"The stream {cards.name!r} did not start: {lines[-1] if lines else 'it printed nothing'}.",
                    remedy=f"Its log is {log}.",
                )
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _lag(settings: Settings) -> int | None:
    state = read_state(settings, cards.name)
    return None if state is None else state.lag_events


def _drained(settings: Settings, rows: int) -> None:
    """Wait until the stream has committed so many rows."""
    give_up = time.monotonic() + _DRAIN_S
    while (state := read_state(settings, cards.name)) is None or state.rows < rows or state.lag_events:
        if time.monotonic() > give_up:
            said = "" if state is None else f" Its last error: {state.last_error}" if state.last_error else ""
            raise UnavailableError(
                f"The stream {cards.name!r} has committed {state.rows if state else 0:,} of {rows:,} rows.{said}",
                remedy=f"Its log is {settings.home_path / 'stream.log'}.",
            )
        time.sleep(0.1)


if __name__ == "__main__":
    main()
