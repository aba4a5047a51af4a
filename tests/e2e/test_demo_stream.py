"""What `make demo-stream` runs, its day sent ten times as fast: a row for each payment, a live answer, and a page."""

import json
import os
import re
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from free_ports import free_port

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.lake.query import query

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_day_of_payments_is_scored_once_each_and_served_live(tmp_path: Path) -> None:
    home, day = tmp_path / "home", datetime.now(timezone.utc).date() - timedelta(days=1)
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT),
        "FORECACHE_HOME": str(home),
        "FORECACHE_KAFKA_DEMO_PORT": str(free_port()),
        # As much history as the splits and windows of the model see.
        "CARDS_START": str(day - timedelta(days=88)),
    }
    done = subprocess.run(
        ["bash", "scripts/demo_stream.sh", "--customers", "1000", "--speed", "10000"],
        cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    before, after = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"key"'))
    assert (before["source"], after["source"]) == (
        "live",
        "live",
    )  # of a live view, also without an event since the night
    assert before["event_time"] is None
    assert after["event_time"].startswith(str(day))
    assert after["value"]["payments_7d"] > before["value"]["payments_7d"]
    page = (home / "reports" / f"stream-{day}.html").read_text()
    assert page.count("<svg") == 2
    counts = "count(*) as rows, count(distinct transaction_id) as payments, count(fraud_score) as scores"
    (found,) = query(load_settings(home=home), f"select {counts} from stream_cards").to_pylist()
    sent = int(re.search(r"Streaming ([\d,]+) payments", done.stdout)[1].replace(",", ""))  # type: ignore[index]
    assert found == {"rows": sent, "payments": sent, "scores": sent}
