"""Further paths of a reader, such as models that are asked in real time. A reader without extensions loads no more."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Handler = Callable[[Any, Any, int], Awaitable[None]]
"""Answers a request: (scope, proto, `perf_counter_ns` when its handling began), as RSGI has them."""

RunOnLoop = Callable[[Callable[[], None]], None]
"""Runs an action on the event loop's thread and waits until it is done."""


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

    def not_ready(self) -> str:
        """Why the worker should get no requests yet, as a sentence; "" if it should."""

    def paths(self) -> dict[str, Any]:
        """Further paths of the OpenAPI document, as they are now."""

    def owns(self, name: str) -> bool:
        """Whether a folder of the store with this name holds no pipeline but what the extension serves."""

    def prometheus(self) -> str:
        """Further metrics of all workers in Prometheus's text format, lines that end in a newline."""
