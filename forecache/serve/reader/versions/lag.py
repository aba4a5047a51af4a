"""Lag of live layers at start: a reader that has just started gets no requests until they are close to their streams.

Once a layer has been close, its lag does not make the reader unready again: otherwise an outage of the lake would take
out every replica at once, and answers of some minutes ago are better than none. Metrics and alerts report that lag.
"""

import time
from collections.abc import Iterable

from forecache.base.errors import ForecacheError
from forecache.serve.store import Store
from forecache.serve.store.live.layer import LiveLayer, read_layer
from forecache.serve.store.live.reader import LiveReader


class LayerLag:
    """Checks the live layers of a machine's stores until each has been close to its stream.

    Attributes:
        reason: The reason why the reader should get no requests yet, as a sentence; "" if it should.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._near: set[str] = set()

    def check_layers(self, stores: Iterable[Store]) -> None:
        """Check the layers that have not been close to their streams yet."""
        self.reason = ""
        for store in stores:
            if store.pipeline in self._near or not store.layout.live.exists():
                continue
            try:
                layer = read_layer(store.layout)
            except ForecacheError:
                continue  # the catalog reports that it is damaged
            reason = "" if layer is None else _lag_reason(store, layer)
            if reason:
                self.reason = self.reason or reason
            else:
                self._near.add(store.pipeline)


def _lag_reason(store: Store, layer: LiveLayer) -> str:
    """The reason why a layer is not close to its stream; "" if it is, or need not be."""
    if layer.max_lag_s is None:
        return ""
    with LiveReader(store.layout) as reader:
        looked_s = time.time() - reader.looked_at_us / 1e6
        if looked_s > layer.max_lag_s:
            return (
                f"Nobody follows the stream {layer.stream} for {store.pipeline} here: see whether "
                "`forecache stream tail` runs."
            )
        if reader.applied_version < reader.table_version:
            return (
                f"The live layer of {store.pipeline} has version {reader.applied_version} of "
                f"{layer.table}, which has version "
                f"{reader.table_version}."
            )
    return ""
