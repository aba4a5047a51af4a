"""What viewers of the status page cost requests: latencies of a steady load with and without them, in turn.

Prints quantiles of requests for one key to a reader with two workers, in rounds without and with viewers, whose order
changes from round to round so that what the machine does meanwhile falls on both.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import httpx
from open_loop import OpenLoop
from reader_support import RunningReader, running_reader
from status_sample import ask_some, write_sample

from forecache.base.settings import load_settings

QUANTILES = (0.5, 0.99, 0.999)
EVERY_S = 2.0


@contextmanager
def viewers(reader: RunningReader, number: int) -> Iterator[None]:
    """So many browsers that ask for the page every two seconds, each on a connection of its own."""
    stop = threading.Event()

    def look(first_s: float) -> None:
        with httpx.Client(base_url=reader.url, headers={"accept": "text/html"}) as http:
            wait_s = first_s
            while not stop.wait(wait_s):
                assert http.get("/status").status_code == 200
                wait_s = EVERY_S

    threads = [threading.Thread(target=look, args=(EVERY_S * each / number,)) for each in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def latencies(reader: RunningReader, *, rate: float, seconds: float) -> list[float]:
    """Seconds that each request took since it was due, ascending."""

    def request(number: int) -> bytes:
        return b"GET /v1/churn/%05d HTTP/1.1\r\nhost: reader\r\n\r\n" % (number % 2357)

    with OpenLoop(reader.port, request, rate) as load:
        threading.Event().wait(seconds)
    assert all(each.status == 200 for each in load.asked), [each.error for each in load.asked if each.status != 200][:3]
    return sorted(each.took_s for each in load.asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--viewers", type=int, default=5)
    given = parser.parse_args()
    found: dict[int, list[float]] = {0: [], given.viewers: []}
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home)
        write_sample(settings)
        with running_reader(settings, reader_workers=2) as reader:
            with httpx.Client(base_url=reader.url) as http:
                for step in range(200):
                    ask_some(http, step)
            for turn in range(given.rounds):
                for number in sorted(found, reverse=turn % 2 == 1):
                    with viewers(reader, number):
                        found[number] += latencies(reader, rate=given.rate, seconds=given.seconds)
            lines = httpx.get(f"{reader.url}/metrics").text.splitlines()
    for number, took in found.items():
        took.sort()
        shown = ", ".join(f"p{share * 100:g} {took[int(len(took) * share)] * 1e6:.0f} us" for share in QUANTILES)
        print(f"{number} viewers: {shown}, {len(took)} requests")
    pages = 'request_duration_seconds_%s{route="status"}'
    count, total = (
        next(float(line.split()[-1]) for line in lines if pages % kind in line) for kind in ("count", "sum")
    )
    print(f"{count:.0f} pages, {total / count * 1e3:.2f} ms each on the loop")


if __name__ == "__main__":
    main()
