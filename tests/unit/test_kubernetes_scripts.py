"""Figures of scripts/kubernetes: a lost request, the metric that scales readers, what a stream's table has to hold."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from stream_sample import EmptyNight, messages
from waiting import wait_for

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.stream.step import StreamStep, switch_to_newest

SCRIPTS = PROJECT_ROOT / "scripts/kubernetes"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kubernetes_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reader(BaseHTTPRequestHandler):
    """Answers; key 3 with an error, key 5 with a connection that ends."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path.endswith("/5"):
            self.close_connection = True
            return
        self.send_response(503 if self.path.endswith("/3") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("keys", "is_lossless"), [(3, True), (6, False)])
def test_load_counts_each_request_without_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, is_lossless: bool
) -> None:
    monkeypatch.setattr(Reader, "asked", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reader)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = tmp_path / "stop"
    url = f"http://127.0.0.1:{server.server_port}/v1/risk"
    with subprocess.Popen(
        [sys.executable, str(SCRIPTS / "load.py"), str(stop), "2", str(keys), url], stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: Reader.asked > 20)
        stop.touch()
        figures = json.loads(process.communicate(timeout=60)[0])
    server.shutdown()
    assert figures["requests"] > 6
    assert (figures["lost"] == 0) == is_lossless
    if not is_lossless:  # two of six keys, for each of the threads
        assert abs(figures["lost"] - figures["requests"] / 3) <= 4


def test_rate_of_time_in_flight_is_the_mean_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: Any = load_module("metrics")
    samples = metrics.Samples()
    now = time.monotonic()
    samples.of_pod["one"].extend([(now - 10, 2.0), (now - 5, 5.0), (now, 8.0)])
    samples.of_pod["new"].append((now, 4.0))
    samples.of_pod["gone"].extend([(now - 100, 2.0), (now - 90, 5.0)])
    assert samples.get_rate("one") == pytest.approx(0.6)
    assert samples.get_rate("new") is None
    assert samples.get_rate("gone") is None


def test_rows_of_payments_are_those_that_the_stream_makes_of_their_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "examples/fraud"))
    events: Any = load_module("events")
    payments = events.make_payments(700)
    sent = [events.encode_payment(each) for each in events.list_messages(payments)]
    settings, night = load_settings(home=tmp_path, project="fraud"), EmptyNight(date(2026, 3, 31))
    step = StreamStep(settings, import_module("user_pace").payments, bases=lambda _: night)
    switch_to_newest(step.answerer)
    answered = step.run(messages(sent))
    assert answered.repeats == len(sent) - len(payments) > 10
    assert not answered.bad.num_rows
    found = answered.rows.select([*events.COLUMNS, *events.ANSWERS]).to_pylist()
    wanted = events.compute_rows([], payments)
    assert found == wanted
    assert events.find_differences(found, wanted) == []


def test_rows_of_payments_count_those_of_the_29_days_before() -> None:
    events: Any = load_module("events")
    [payment] = events.make_payments(1)
    user = payment["user_id"]
    past = [(date(2026, 3, 2), user, 9000.0), (date(2026, 3, 3), user, 8000.0), (date(2026, 3, 31), user + 1, 9000.0)]
    [row] = events.compute_rows(past, [payment])
    assert row == payment | {"pace": 2.0, "features": [2.0, 8000.0]}


def test_differences_name_rows_that_are_missing_strange_doubled_and_changed() -> None:
    events: Any = load_module("events")
    first, second, third, fourth = events.compute_rows([], events.make_payments(4))
    found = [second, third, third, fourth | {"pace": 7.0}, first | {"payment_id": "x"}]
    assert events.find_differences(found, [first, second, third, fourth]) == [
        "1 payments are not there, such as 0401-0",
        "1 payments are never sent, such as x",
        "1 payments are there more than once, such as 0401-2",
        "1 payments are different, such as 0401-3",
    ]
