"""Extensions: further paths of a reader, such as real-time models. A reader without them loads none of their code."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from forecache.base.settings import Settings
from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.limits import BodyMemory
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.processes.shared_memory import ReaderSharedMemory
from forecache.serve.reader.processes.worker_metrics import WorkerMetrics
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.watcher import RunOnLoop

if TYPE_CHECKING:
    from forecache.serve.reader.status.attention import Attention
    from forecache.serve.reader.status.history import History, ModelCounts

Handler = Callable[[HttpCall], Awaitable[None] | None]
"""Answers a request at once, or returns an awaitable that does."""


@dataclass(frozen=True)
class ExtensionContext:
    """The parts of a reader worker that its extensions may use.

    Attributes:
        catalog: The served versions; its `answers` change on the event loop's thread alone.
        access: Checks tokens; None: the reader has none.
        bodies: The memory for the bodies of requests.
    """

    settings: Settings
    catalog: Catalog
    metrics: WorkerMetrics
    access: Access | None
    bodies: BodyMemory
    runtime: ReaderSharedMemory


class Extension(Protocol):
    """Handles paths that the reader does not know itself; plain reads of keys never reach it.

    A class that inherits from it defines only what it has.
    """

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare, on the event loop's thread, before the worker accepts connections."""
        return

    def poll_changes(self, run_on_loop: RunOnLoop) -> None:
        """Look for changes; called in the watching thread a few times a second."""

    def close(self) -> None:
        """Stop everything that `open` started, on the event loop's thread."""
        return

    def find_handler(self, method: str, path: str) -> Handler | None:
        """Return the handler of a request, None if there is none. Called on the event loop: it must be fast."""
        return None

    def serves_anything(self) -> bool:
        """Return whether it has something to serve."""
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
        """Further metrics of all workers in Prometheus's text format, lines that end in a newline."""
        return ""

    def model_counts(self) -> "Mapping[str, ModelCounts]":
        """Counts of all workers by model name, for the history; called in the watching thread."""
        return {}

    def status(self, history: "History") -> "tuple[dict[str, Any], list[Attention]]":
        """Its members of the status document, and its problems; called in any thread, about once a second."""
        return {}, []


MakeExtension = Callable[[ExtensionContext], Extension]
"""Makes the extension of a worker; it must be picklable."""
