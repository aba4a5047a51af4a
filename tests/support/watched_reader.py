"""What Prometheus is to find: bins, stages, a stream as they leave their traces, and traffic on a reader."""

import http.client
import json
import time
from datetime import date, datetime, timezone

from reader_support import RunningReader
from release_support import FEATURES, a_request

from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.promotions import Promotion, last_promotion, record_promotion
from forecache.plugins.drift.live_counts import SCORE, ColumnBins, DriftReference
from forecache.plugins.drift.measurements import Measurement, append_measurements
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import LiveRow, TailState, write_tail_state
from forecache.serve.store.live.writer import open_live_writer
from forecache.stream.state import StreamState, write_state

NIGHT = date(2026, 11, 1)


def bins() -> bytes:
    """Bins that the features of the test's requests lie outside of, so that there is drift."""
    columns = [ColumnBins(name, (1.0, 2.0), (50, 40, 10, 0), 0.0, 3.0) for name in FEATURES]
    return DriftReference((*columns, ColumnBins(SCORE, (0.5,), (50, 50, 0))), "a training split").to_json()


def make_batch(settings: Settings) -> None:
    """What stages, gate and monitoring leave behind."""
    rows = [
        StageRecord(stage, "churn", NIGHT, "inputs", "", -1, rows=10, seconds=1.5) for stage in ("features", "score")
    ]
    append_records(settings, rows)
    append_measurements(
        settings,
        [
            Measurement("churn", NIGHT, NIGHT, kind, name, reference, 1, 0.3, 100, 0.1, 0.4, value=0.7)
            for kind, name, reference in (
                ("feature", "amount", "training split"),
                ("estimate", "roc_auc", "test split"),
                ("performance", "roc_auc", "test split"),
            )
        ],
    )
    decided = {"action": "gate", "actor": "test", "reason": "", "training_table": "t", "training_version": 1}
    for number, verdict in ((1, "passed"), (2, "failed")):
        record_promotion(
            settings,
            Promotion(
                recorded_at=datetime.now(timezone.utc), pipeline="churn", from_version=None, to_version=1,
                candidate=number, verdict=verdict, **decided,
            ),
            after=last_promotion(settings, "churn"),
        )  # fmt: skip


def make_stream(settings: Settings) -> None:
    """What the engine of a stream and the tailer of its view's live layer leave behind."""
    now = time.time()
    state = StreamState(
        1, now - 60, now, offsets={"0": 90}, end_offsets={"0": 95}, lag_events=5, rows=90, rows_per_s=2.0, bad=1,
        repeats=1, late=1, delay_p50_s=0.4, delay_p99_s=0.9, committed_version=4, committed_at=now, release=1,
    )  # fmt: skip
    write_state(settings.home_path, "cards", state)
    layout = StoreLayout(settings.store_path / "customer")
    with open_live_writer(layout) as live:
        live.apply(4, [(b"key", LiveRow(4, 1, b"{}"))])
        live.mark_verified(4)
    compared = {"verified_at": now, "unverified_since": now, "comparison_s": 0.5, "compared_every_s": 60.0}
    write_tail_state(layout, TailState(applied=4, **compared))


def ask(reader: RunningReader, requests: int) -> None:
    """Reads of keys that are found and missed, and requests to the real-time model, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", reader.port, timeout=30)
    body, headers = a_request(), {"content-type": "application/json"}
    for number in range(requests):
        connection.request("POST", "/v1/search", body, headers)
        assert connection.getresponse().read()
        if number % 5 == 0:
            connection.request("GET", "/v1/churn/00042" if number % 10 else "/v1/churn/nobody")
            connection.getresponse().read()
    many = json.dumps({"keys": ["00042", "00043"]}).encode()
    connection.request("POST", "/v1/churn", many, headers)
    assert connection.getresponse().read()
    connection.close()
