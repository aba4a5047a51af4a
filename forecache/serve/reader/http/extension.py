"""Extensions: further paths of a reader, such as real-time models. A reader without them loads none of their code."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from forecache.base.settings import Settings
from forecache.kit.http.call import BodyMemory, HttpCall
from forecache.kit.http.load_shedding import LoadShedder
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.follow import RunOnLoop
from forecache.serve.reader.worker_metrics import WorkerMetrics

Handler = Callable[[HttpCall], Awaitable[None] | None]
"""Answers a request at once, or returns an awaitable that does."""


@dataclass(frozen=True)
class ExtensionContext:
    """The parts of a worker that its extensions may use; `catalog.answers` changes on the event loop's thread."""

    settings: Settings
    catalog: Catalog
    metrics: WorkerMetrics
    access: Access | None
    bodies: BodyMemory
    runtime: ReaderSharedMemory
    shedder: LoadShedder


class Extension(Protocol):
    """Handles paths that the reader does not know itself; plain reads of keys never reach it."""

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare, on the event loop's thread, before the worker accepts connections."""
        return

    def poll_changes(self, run_on_loop: RunOnLoop) -> None:
        """Look for changes; called in the watching thread a few times a second."""

    def close(self) -> None:
        return

    def find_handler(self, method: str, path: str) -> Handler | None:
        """Return the handler of a request, None if there is none. Called on the event loop: it must be fast."""
        return None

    def serves_anything(self) -> bool:
        return False

    def list_served(self) -> list[dict[str, Any]]:
        """Rows for the list of `GET /v1`, each with its `name`, which a token has to cover."""
        return []

    def not_ready_reason(self) -> str:
        """The reason why the worker should get no requests yet, as a sentence; "" if it should."""
        return ""

    def openapi_paths(self) -> dict[str, Any]:
        """Further paths of the OpenAPI document, as they are now."""
        return {}

    def prometheus_text(self) -> str:
        """Further metrics of all workers in Prometheus's text format, ended by a newline; called in any thread."""
        return ""


MakeExtension = Callable[[ExtensionContext], Extension]
"""Makes the extension of a worker; it must be picklable."""
