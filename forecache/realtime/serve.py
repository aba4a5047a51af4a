"""The reader extension that serves real-time models in every worker of `forecache serve`.

Numpy and the libraries of the models are imported once there is a release, not before.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from forecache.reader.http.extension import Context, Handler
from forecache.reader.status.attention import Attention
from forecache.reader.versions.watcher import RunOnLoop
from forecache.realtime.http.unloaded import Unloaded
from forecache.realtime.release.here import released_here

if TYPE_CHECKING:
    from forecache.reader.status.history import Counted, History
    from forecache.realtime.models import Models

logger = logging.getLogger("forecache.realtime")


class RealtimeExtension:
    """The extension of one worker. A broken release or a missing package never affects look-ups by key.

    The watching thread loads everything; until then, requests to models get 503.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._models: Models | None = None
        self._unloaded = Unloaded(context)
        self._find: Callable[[str, str], Handler | None] = self._unloaded.find
        self._has_looked = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def turn(self, run_on_loop: RunOnLoop) -> None:
        if self._models is None and released_here(self._context.settings):
            self._load(run_on_loop)
        if self._models is not None:
            self._models.turn(run_on_loop)
        self._has_looked = True

    def close(self) -> None:
        if self._models is not None:
            self._models.close()

    def find(self, method: str, path: str) -> Handler | None:
        return self._find(method, path)

    def serves(self) -> bool:
        return self._models is not None and bool(self._models.served)

    def listed(self) -> list[dict[str, Any]]:
        served = [] if self._models is None else sorted(self._models.served.items())
        return [
            {
                "name": name,
                "release": each.number,
                "model": each.loaded.release.model.summary,
                "deadline_ms": each.loaded.release.deadline_ms,
            }
            for name, each in served
        ]

    def not_ready(self) -> str:
        return "" if self._has_looked else "The reader is still loading the releases of real-time models."

    def paths(self) -> dict[str, Any]:
        if self._models is None:
            return {}
        from forecache.realtime.http.openapi import paths

        return paths([served.loaded.release for served in self._models.served.values()])

    def prometheus(self) -> str:
        if self._models is None:
            return ""
        from forecache.realtime.http.prometheus import page

        settings, served = self._context.settings, self._models.served
        references = {name: each.loaded.reference for name, each in served.items() if each.loaded.reference}
        return page(
            self._context.runtime, settings.request_log_path, references, drift_window_s=settings.reader_drift_window_s
        )

    def counted(self) -> "Mapping[str, Counted]":
        if self._models is None:
            return {}
        from forecache.realtime.http.status import counted_of

        return counted_of(self._context.runtime)

    def status(self, history: "History") -> tuple[dict[str, Any], list[Attention]]:
        if self._models is None:
            if not self._unloaded.failure:
                return {}, []
            what = "Real-time models are not served: a package that they need is missing."
            return {}, [Attention("critical", what, "Install forecache[realtime] and restart the reader.")]
        from forecache.realtime.http.status import part

        return part(self._models, self._context.runtime, history, self._context.settings)

    def _load(self, run_on_loop: RunOnLoop) -> None:
        try:
            from forecache.realtime.http.handlers import Handlers
            from forecache.realtime.models import Models
        except ImportError as error:
            if self._unloaded.failure != str(error):
                self._unloaded.failure = str(error)
                logger.error("Real-time models are not served: %s. Install forecache[realtime].", error)
            return
        loop = self._loop
        assert loop is not None, "the reader opens an extension before it asks it to look"

        def load() -> None:
            self._models = Models(self._context, loop)
            self._find = Handlers(self._context, self._models, loop).find

        run_on_loop(load)


def extension_alone(context: Context) -> RealtimeExtension:
    """Make the extension in a process that only answers requests, where training libraries need not be imported."""
    from forecache.realtime.release.alone import only_answer

    only_answer()
    return extension(context)


def extension(context: Context) -> RealtimeExtension:
    """Make the extension of a worker; an argument of `forecache.reader.serve`."""
    return RealtimeExtension(context)
