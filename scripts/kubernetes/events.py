"""Payments of the day after the newest night of examples/fraud: send them to the stream's topic, check its table.

What the table has to hold is counted here from the landing rows and the payments alone. Runs on the node with the
settings of a machine outside the cluster.

Usage: python3 events.py topic             create the topic
       python3 events.py send STOP_FILE    send payments until the file is there; prints how many
       python3 events.py wait ROWS         wait until the table has so many rows; prints how many there are then
       python3 events.py compare COUNT     compare the table with that many payments; prints the newest row of each user
"""

import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

TOPIC, TABLE = "payments", "stream_payments"
DAY = date(2026, 4, 1)
USERS, RATE, MOST = 300, 50, 86_400  # payments a second of sending, of which there is one for each second of the day
WINDOW = timedelta(days=30)
REPEATED, LATER = 10, 500  # every tenth message is sent again after 500 others
WAIT_S = 300
COLUMNS, ANSWERS = ("payment_id", "user_id", "amount", "country", "paid_at"), ("pace", "features")
Row = dict[str, Any]


def make_payments(count: int) -> list[Row]:
    """The first payments of the day in the order of their times; the same ones each time."""
    rng, start = random.Random(5), datetime(DAY.year, DAY.month, DAY.day, tzinfo=timezone.utc)
    return [
        {
            "payment_id": f"{DAY:%m%d}-{number}",
            "user_id": rng.randrange(USERS),
            "amount": round(rng.lognormvariate(3, 1), 2),
            "country": rng.choice(["home", "home", "abroad"]),
            "paid_at": start + timedelta(seconds=number),
        }
        for number in range(count)
    ]


def compute_rows(past: Iterable[tuple[date, int, float]], payments: Iterable[Row]) -> list[Row]:
    """The row of each payment: how many its user has made within 30 days, itself included, and the largest amount.

    Args:
        past: Day, user and amount of each earlier payment.
    """
    amounts: defaultdict[int, list[float]] = defaultdict(list)
    for day, user, amount in past:
        if DAY - WINDOW < day < DAY:
            amounts[user].append(amount)
    rows = []
    for payment in payments:
        of_user = amounts[payment["user_id"]]
        of_user.append(payment["amount"])
        count = float(len(of_user))
        rows.append(payment | {"pace": count, "features": [count, float(np.float32(max(of_user)))]})
    return rows


def find_differences(found: list[Row], wanted: list[Row]) -> list[str]:
    """How the rows of the table differ from those that it has to hold, whatever their order; [] if they are equal."""
    counts: defaultdict[str, int] = defaultdict(int)
    for row in found:
        counts[row["payment_id"]] += 1
    of_id = {row["payment_id"]: row for row in found}
    expected = {row["payment_id"]: row for row in wanted}
    lists = {
        "not there": sorted(expected.keys() - of_id.keys()),
        "never sent": sorted(of_id.keys() - expected.keys()),
        "there more than once": sorted(name for name, count in counts.items() if count > 1),
        "different": sorted(name for name in expected.keys() & of_id.keys() if expected[name] != of_id[name]),
    }
    return [f"{len(names)} payments are {what}, such as {names[0]}" for what, names in lists.items() if names]


def list_messages(payments: list[Row]) -> Iterator[Row]:
    """The payments in their order, with repeats, as a producer makes them that did not get an answer."""
    for number, payment in enumerate(payments):
        yield payment
        if number >= LATER and number % REPEATED == 0:
            yield payments[number - LATER]


def encode_payment(payment: Row) -> bytes:
    return json.dumps(payment | {"paid_at": f"{payment['paid_at']:%Y-%m-%dT%H:%M:%SZ}"}).encode()


def create_topic() -> None:
    from forecache.base.settings import load_settings
    from forecache.stream.kafka import client

    client.create_topic(client.client_options(load_settings()), TOPIC, partitions=3, timeout_s=60)


def send(stop: Path) -> int:
    """Send payments until the file is there; returns how many."""
    from confluent_kafka import Producer

    from forecache.base.settings import load_settings
    from forecache.stream.kafka import client

    producer = Producer({**client.client_options(load_settings()), "enable.idempotence": True, "linger.ms": 5})
    failed: list[object] = []

    def note_failure(error: object, _: object) -> None:
        if error:
            failed.append(error)

    ids, began = set(), time.monotonic()
    for number, payment in enumerate(list_messages(make_payments(MOST))):
        if stop.exists():
            break
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        key = str(payment["user_id"]).encode()  # all payments of a user stay in the order of their times
        client.produce(producer, TOPIC, encode_payment(payment), key, on_delivery=note_failure)
        producer.poll(0)
        ids.add(payment["payment_id"])
    if producer.flush(60) or failed:
        raise SystemExit(f"Messages were not delivered: {failed[:1]}")
    return len(ids)


def read_table(*columns: str) -> list[Row]:
    from forecache.base.settings import load_settings
    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.log import open_if_exists

    table = open_if_exists(load_settings(), TABLE)
    return [] if table is None else open_dataset(table).to_table(columns=list(columns)).to_pylist()


def wait_for_rows(count: int) -> int:
    end = time.monotonic() + WAIT_S
    while (found := len(read_table("payment_id"))) < count:
        if time.monotonic() > end:
            raise SystemExit(f"{TABLE} has {found} of {count} rows after {WAIT_S} s")
        time.sleep(1)
    return found


def compare(count: int) -> dict[int, float]:
    """Compare the table with the first payments; returns the newest count of each user."""
    from fraud.landing import landing_days

    past = ((day, row[1], row[2]) for _, day, rows in landing_days() for row in rows)
    wanted = compute_rows(past, make_payments(count))
    differences = find_differences(read_table(*COLUMNS, *ANSWERS), wanted)
    if differences:
        raise SystemExit(f"{TABLE} is not equal to the payments that were sent: {'; '.join(differences)}")
    return {row["user_id"]: row["pace"] for row in wanted}


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "topic":
        create_topic()
    elif action == "send":
        print(json.dumps({"sent": send(Path(*arguments))}))
    elif action == "wait":
        print(wait_for_rows(int(*arguments)))
    elif action == "compare":
        print(json.dumps(compare(int(*arguments))))
    else:
        raise SystemExit(__doc__)
