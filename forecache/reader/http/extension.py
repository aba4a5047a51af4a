"""Further paths of a reader, such as models that are asked in real time. A reader without extensions loads no more."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from forecache.reader.connections.call import Call
from forecache.reader.http.access import Access
from forecache.reader.http.limits import BodyMemory
from forecache.reader.processes.metrics import WorkerMetrics
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.versions.catalog import Catalog
from forecache.reader.versions.watcher import RunOnLoop
from forecache.settings import Settings

if TYPE_CHECKING:
    from forecache.reader.status.attention import Attention
    from forecache.reader.status.history import Counted, History

Handler = Callable[[Call], Awaitable[None] | None]
"""Answers a request at once, or returns what has to be awaited for that."""


@dataclass(frozen=True)
class Context:
    """What a worker of the reader has, for its extensions.

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
    runtime: Runtime


class Extension(Protocol):
    """What the reader asks before it says that there is nothing at a path; plain reads of keys never ask it."""

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare, on the event loop's thread, before the worker accepts connections."""

    def turn(self, run_on_loop: RunOnLoop) -> None:
        """Look for changes, in the watching thread, a few times a second."""

    def close(self) -> None:
        """Stop what was started, on the event loop's thread."""

    def find(self, method: str, path: str) -> Handler | None:
        """The handler of a request, None if it is not of this extension. Called on the event loop: it must be fast."""

    def serves(self) -> bool:
        """Whether it answers requests for something."""

    def listed(self) -> list[dict[str, Any]]:
        """What it answers for, as `GET /v1` lists it: each with its `name`, which a token has to cover."""

    def not_ready(self) -> str:
        """Why the worker should get no requests yet, as a sentence; "" if it should."""

    def paths(self) -> dict[str, Any]:
        """Further paths of the OpenAPI document, as they are now."""

    def prometheus(self) -> str:
        """Further metrics of all workers in Prometheus's text format, lines that end in a newline."""

    def counted(self) -> "Mapping[str, Counted]":
        """By the names of its models, what all workers have counted, for the history; called in the watching thread."""

    def status(self, history: "History") -> "tuple[dict[str, Any], list[Attention]]":
        """Its members of the status document, and what is not well; called in any thread, about once a second."""


MakeExtension = Callable[[Context], Extension]
"""Makes the extension of a worker; it must be picklable."""
