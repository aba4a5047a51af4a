"""The reader extension that serves real-time models in every worker of `forecache serve`.

Numpy and the libraries of the models are imported once there is a release, not before.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forecache.realtime.http.protocol_errors import NotReadyHandlers
from forecache.realtime.release.released_models import list_released_models
from forecache.serve.reader.http.extension import ExtensionContext, Handler
from forecache.serve.reader.versions.follow import RunOnLoop

if TYPE_CHECKING:
    from forecache.realtime.served_models import ServedModels

logger = logging.getLogger("forecache.realtime")


class RealtimeExtension:
    """The extension of one worker. A broken release or a missing package never affects look-ups by key.

    The watching thread loads everything; until then, `models` is None, and requests to models get 503.
    """

    def __init__(self, context: ExtensionContext) -> None:
        self._context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self.models: ServedModels | None = None
        self._unloaded = NotReadyHandlers(context)
        self._find: Callable[[str, str], Handler | None] = self._unloaded.find
        self._has_looked = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def poll_changes(self, run_on_loop: RunOnLoop) -> None:
        if self.models is None and list_released_models(self._context.settings):
            self._load(run_on_loop)
        if self.models is not None:
            self.models.follow_pointers(run_on_loop)
        self._has_looked = True

    def close(self) -> None:
        if self.models is not None:
            self.models.close()

    @property
    def failure(self) -> str:
        """The reason why the packages of real-time models cannot be imported; "" if they can."""
        return self._unloaded.failure

    def find_handler(self, method: str, path: str) -> Handler | None:
        return self._find(method, path)

    def serves_anything(self) -> bool:
        return self.models is not None and bool(self.models.served)

    def list_served(self) -> list[dict[str, Any]]:
        served = [] if self.models is None else sorted(self.models.served.items())
        return [
            {
                "name": name,
                "release": each.number,
                "model": each.loaded.release.model.summary,
                "deadline_ms": each.loaded.release.deadline_ms,
            }
            for name, each in served
        ]

    def not_ready_reason(self) -> str:
        if not self._has_looked:
            return "The reader is still loading the releases of real-time models."
        context, models = self._context, self.models
        known = set() if models is None else models.served.keys() | models.failures.keys()
        awaited = context.catalog.partial.awaited_models - known
        if not awaited or self.failure or context.runtime.was_ready:
            return ""
        return f"The reader waits until `forecache store pull` has brought the release of {', '.join(sorted(awaited))}."

    def openapi_paths(self) -> dict[str, Any]:
        if self.models is None:
            return {}
        from forecache.realtime.http.openapi import model_paths

        return model_paths([served.loaded.release for served in self.models.served.values()])

    def prometheus_text(self) -> str:
        if self.models is None:
            return ""
        from forecache.realtime.http.prometheus import metrics_page

        settings, served = self._context.settings, dict(self.models.served)
        references = {name: each.loaded.reference for name, each in served.items() if each.loaded.reference}
        return metrics_page(
            self._context.runtime, settings.request_log_path, references, drift_window_s=settings.reader_drift_window_s
        )

    def _load(self, run_on_loop: RunOnLoop) -> None:
        try:
            from forecache.realtime.http.handlers import RealtimeHandlers
            from forecache.realtime.served_models import ServedModels
        except ImportError as error:
            if self._unloaded.failure != str(error):
                self._unloaded.failure = str(error)
                logger.error("Real-time models are not served: %s. Install forecache[realtime].", error)
            return
        loop = self._loop
        assert loop is not None, "the reader opens an extension before it asks it to look"

        def load() -> None:
            self.models = ServedModels(self._context, loop)
            self._find = RealtimeHandlers(self._context, self.models).find

        run_on_loop(load)


def make_inference_only_extension(context: ExtensionContext) -> RealtimeExtension:
    """Make the extension in a process that only answers requests, where training libraries need not be imported."""
    from forecache.realtime.release.release_code import mark_inference_only

    mark_inference_only()
    return make_extension(context)


def make_extension(context: ExtensionContext) -> RealtimeExtension:
    """Make the extension of a worker; an argument of `forecache.serve.reader.serve`."""
    return RealtimeExtension(context)
