"""Exports metrics to Prometheus: stages, stores, gate, monitoring and streams, as a page and as a small HTTP server.

They are read from tables and files that stages and streams write anyway, so exporting does not slow them down.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forecache.base.errors import ForecacheError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.kit.metrics.page import CONTENT_TYPE, MetricsPage, end_of_date, unix_seconds
from forecache.lake.ledger import StageRecord, ledger_records
from forecache.models.registry.promotions import Promotion, all_promotions
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.remote_store import list_local_stores
from forecache.stream.status import add_streams

Of = tuple[str, str]


def batch_page(settings: Settings) -> str:
    """Make the page in Prometheus's text format; metrics of events that have not happened yet have no samples."""
    page = MetricsPage()
    _add_stages(page, ledger_records(settings))
    _add_stores(page, _current_manifests(settings))
    _add_gate(page, all_promotions(settings))
    for add_metrics in find_hooks("batch_metrics"):
        add_metrics(settings, page)
    add_streams(page, settings)
    page.add_values([("forecache_batch_exported_timestamp_seconds", round(time.time()))])
    return page.text()


def _add_stages(page: MetricsPage, rows: list[StageRecord]) -> None:
    """Args: rows: The latest last."""
    of: dict[Of, list[StageRecord]] = {}
    for row in rows:
        of.setdefault((row.stage, row.subject), []).append(row)
    page.add_each(
        sorted(of.items()),
        {
            "forecache_batch_materializations_total": len,
            "forecache_batch_last_success_timestamp_seconds": lambda some: unix_seconds(some[-1].recorded_at),
            "forecache_batch_last_duration_seconds": lambda some: round(some[-1].seconds, 3),
            "forecache_batch_last_rows": lambda some: some[-1].rows,
            "forecache_batch_newest_as_of_timestamp_seconds": lambda some: end_of_date(
                max((row.as_of for row in some if row.as_of), default=None)
            ),
        },
    )


def _current_manifests(settings: Settings) -> dict[str, Manifest]:
    found = {}
    for store in list_local_stores(settings):
        with suppress(ForecacheError):  # a damaged store: the reader's metrics and `forecache store verify` report it
            if (manifest := store.current()) is not None:
                found[store.pipeline] = manifest
    return found


def _add_stores(page: MetricsPage, current: dict[str, Manifest]) -> None:
    page.add_each(
        current.items(),
        {
            "forecache_store_version": lambda each: each.version,
            "forecache_store_keys": lambda each: each.rows,
            "forecache_store_size_bytes": lambda each: each.size_bytes,
            "forecache_store_segments": lambda each: len(each.segments),
            "forecache_store_published_timestamp_seconds": lambda each: unix_seconds(each.published_time),
            "forecache_store_as_of_timestamp_seconds": lambda each: unix_seconds(each.as_of_end),
            "forecache_store_stale_after_timestamp_seconds": lambda each: (
                None if each.overdue_after is None else unix_seconds(each.overdue_after)
            ),
        },
    )


def _add_gate(page: MetricsPage, rows: list[Promotion]) -> None:
    """Args: rows: The oldest first."""
    champions: dict[str, int] = {}
    judged: dict[str, int] = {}
    decisions: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        if row.verdict == "begun":
            continue
        if row.to_version is not None:
            champions[row.pipeline] = row.to_version
        if row.action == "gate":
            judged[row.pipeline] = int(row.verdict != "failed")
        decisions[row.pipeline, row.action, row.verdict] += 1
    page.add("forecache_gate_champion_version", champions.items())
    page.add("forecache_gate_last_passed", judged.items())
    page.add("forecache_gate_decisions_total", sorted(decisions.items()))


logger = logging.getLogger("forecache.metrics")


def create_export_server(host: str, port: int, make: Callable[[], str]) -> ThreadingHTTPServer:
    """Make a server whose `/metrics` returns the page of `make`, one call at a time; 503 if that fails.

    Args:
        port: 0: a free one; see `server_address`.
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
            with suppress(ConnectionError):  # who asked did not wait for so long
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log scrapes."""

    return ThreadingHTTPServer((host, port), Handler)
