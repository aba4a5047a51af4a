"""Exports metrics to Prometheus: stages, stores, gate, monitoring and streams, as a page and as a small HTTP server.

They are read from tables and files that stages and streams write anyway, so exporting does not slow them down.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.metrics import batch as metrics
from forecache.kit.metrics.metric import Metric
from forecache.kit.metrics.page import CONTENT_TYPE, Labels, MetricsPage
from forecache.lake.ledger import StageRecord, ledger_records
from forecache.models.registry.promotions import Promotion, all_promotions
from forecache.plugins.drift.measurements import Measurement, all_measurements
from forecache.serve.store.checkup import list_local_stores
from forecache.serve.store.manifest import Manifest
from forecache.stream.status.stream_metrics import add_streams

Of = tuple[str, str]
_OF_METRICS: tuple[tuple[Metric, Callable[[Measurement], float | None]], ...] = (
    (metrics.MONITORED_VALUE, lambda row: row.value),
    (metrics.MONITORED_LOW, lambda row: row.effect_low),
    (metrics.MONITORED_HIGH, lambda row: row.effect_high),
)


def batch_page(settings: Settings) -> str:
    """Make the page in Prometheus's text format; metrics of events that have not happened yet have no samples."""
    page = MetricsPage()
    _add_stages(page, ledger_records(settings))
    _add_stores(page, _current_manifests(settings))
    _add_gate(page, all_promotions(settings))
    _add_monitoring(page, all_measurements(settings))
    add_streams(page, settings)
    page.add_value(metrics.EXPORTED, f"{time.time():.0f}")
    return page.text()


def _add_stages(page: MetricsPage, rows: list[StageRecord]) -> None:
    """Args: rows: The latest last."""
    of: dict[Of, list[StageRecord]] = {}
    for row in rows:
        of.setdefault((row.stage, row.subject), []).append(row)
    last = {about: some[-1] for about, some in sorted(of.items())}
    newest = {about: max((row.night for row in of[about] if row.night), default=None) for about in last}
    page.add(metrics.MATERIALIZATIONS, ((about, len(of[about])) for about in last))
    page.add(metrics.LAST_SUCCESS, ((about, _unix_seconds(row.recorded_at)) for about, row in last.items()))
    page.add(metrics.LAST_DURATION, ((about, f"{row.seconds:.3f}") for about, row in last.items()))
    page.add(metrics.LAST_ROWS, ((about, row.rows) for about, row in last.items()))
    page.add(metrics.NEWEST_AS_OF, ((about, _end_of_date(night)) for about, night in newest.items() if night))


def _current_manifests(settings: Settings) -> dict[str, Manifest]:
    found = {}
    for store in list_local_stores(settings):
        with suppress(ForecacheError):  # a damaged store: the reader's metrics and `forecache verify` report it
            if (manifest := store.current()) is not None:
                found[store.pipeline] = manifest
    return found


def _add_stores(page: MetricsPage, current: dict[str, Manifest]) -> None:
    page.add(metrics.STORE_VERSION, (((name,), each.version) for name, each in current.items()))
    page.add(metrics.STORE_KEYS, (((name,), each.rows) for name, each in current.items()))
    page.add(metrics.STORE_BYTES, (((name,), each.size_bytes) for name, each in current.items()))
    page.add(metrics.STORE_SEGMENTS, (((name,), len(each.segments)) for name, each in current.items()))
    page.add(
        metrics.STORE_PUBLISHED,
        (((name,), _unix_seconds(each.published_time)) for name, each in current.items()),
    )
    page.add(metrics.STORE_AS_OF, (((name,), _unix_seconds(each.as_of_end)) for name, each in current.items()))
    overdue = {name: each.overdue_after for name, each in current.items()}
    page.add(
        metrics.STORE_STALE_AFTER, (((name,), _unix_seconds(at)) for name, at in overdue.items() if at is not None)
    )


def _add_gate(page: MetricsPage, rows: list[Promotion]) -> None:
    """Args: rows: The oldest first."""
    champions: dict[Labels, int] = {}
    judged: dict[Labels, int] = {}
    decisions: dict[Labels, int] = {}
    for row in rows:
        if row.verdict == "begun":
            continue
        if row.to_version is not None:
            champions[(row.pipeline,)] = row.to_version
        if row.action == "gate":
            judged[(row.pipeline,)] = int(row.verdict != "failed")
        about = (row.pipeline, row.action, row.verdict)
        decisions[about] = decisions.get(about, 0) + 1
    page.add(metrics.CHAMPION, champions.items())
    page.add(metrics.GATE_PASSED, judged.items())
    page.add(metrics.GATE_DECISIONS, sorted(decisions.items()))


def _add_monitoring(page: MetricsPage, rows: Iterable[Measurement]) -> None:
    """Add the figures of the newest as-of date of each pipeline and kind."""
    newest: dict[Of, date] = {}
    for row in rows:
        about = (row.pipeline, row.kind)
        newest[about] = max(row.night, newest.get(about, row.night))
    shown = {
        (row.pipeline, row.kind, row.name, row.reference): row
        for row in rows
        if row.night == newest[row.pipeline, row.kind]
    }
    metric_rows = {about[:3]: row for about, row in shown.items() if row.kind in ("estimate", "performance")}
    page.add(metrics.MONITORED_EFFECT, ((about, _number(row.effect)) for about, row in shown.items()))
    for metric, value in _OF_METRICS:
        known = [(about, value(row)) for about, row in metric_rows.items()]
        page.add(metric, ((about, _number(each)) for about, each in known if each is not None))
    page.add(metrics.MONITORED_NIGHT, ((about, _end_of_date(night)) for about, night in newest.items()))


def _number(value: float) -> str:
    return f"{value:.6g}"


def _unix_seconds(at: datetime | None) -> str:
    return "NaN" if at is None else f"{at.timestamp():.0f}"


def _end_of_date(night: date) -> str:
    """Unix time of the midnight (UTC) that ends a date."""
    return _unix_seconds(datetime(night.year, night.month, night.day, tzinfo=timezone.utc) + timedelta(days=1))


logger = logging.getLogger("forecache.metrics")


def create_export_server(host: str, port: int, make: Callable[[], str]) -> ThreadingHTTPServer:
    """Make a server whose `/metrics` returns the page of `make`, one call at a time; 503 if that fails.

    Args:
        port: 0: a free one; see `server_address`.

    Raises:
        OSError: The port is taken.
    """
    making = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._reply(404, "There is nothing here but /metrics.\n")
                return
            try:
                with making:
                    page = make()
            except Exception as error:
                logger.exception("The metrics could not be read.")
                self._reply(503, f"The metrics could not be read: {type(error).__name__}.\n")
                return
            self._reply(200, page)

        def _reply(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log scrapes."""

    return ThreadingHTTPServer((host, port), Handler)
