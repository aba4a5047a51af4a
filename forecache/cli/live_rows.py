"""The answers of a store with its live layer, and the layer's figures, for commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forecache.cli.commands.store import open_pipeline_store

if TYPE_CHECKING:
    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.store import Manifest, Store


@contextmanager
def open_answers(name: str, version: int | None = None) -> "Iterator[VersionAnswers]":
    """Open the answers that the reader would serve now: the served version with the live layer above it.

    Args:
        version: A retained version, opened without the live layer; None: the served one.

    Raises:
        NotFoundError: Nothing is published, and there is no live layer here.
    """
    import time

    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.reader.versions.live_answers import NoVersion, answers_of
    from forecache.serve.reader.versions.live_layers import LiveLayers

    store = open_pipeline_store(name)
    layers = LiveLayers()
    try:
        layer = layers.open_layer(store) if version is None else None
        if layer is not None and layer.serves_alone and store.pointer().serving is None:
            answers: VersionAnswers = answers_of(NoVersion(name, layer.declared), layer)
            answers.refresh(time.time())
            yield answers
            return
        with store.snapshot(version) as snapshot:
            answers = answers_of(snapshot, layer)
            answers.refresh(time.time())
            yield answers
    finally:
        layers.close()


def live_layer_dict(store: "Store", *versions: "Manifest") -> dict[str, Any] | None:
    """The live layer of a store with the stable keys of `--json`; None if it has none.

    Args:
        versions: `above` has, for each of their numbers, the number of keys whose streamed row wins over it.
    """
    from forecache.serve.store.live.layer import read_layer
    from forecache.serve.store.live.reader import LiveReader

    declared = read_layer(store.layout)
    if declared is None:
        return None
    with LiveReader(store.layout) as live:
        counts = live.count_above([manifest.cut for manifest in versions])
        return {
            "stream": declared.stream,
            "table": declared.table,
            "kind": declared.kind,
            "rows": live.entries - live.num_pending,
            "pending": live.num_pending,
            "applied": live.applied_version,
            "verified_through": live.verified_through,
            "above": {str(manifest.version): count for manifest, count in zip(versions, counts, strict=True)},
        }


def layer_text(live: dict[str, Any], first: str = "live") -> str:
    """A live layer in one line."""
    pending = f" and {live['pending']:,} pending" if live["pending"] else ""
    verified = f"verified at {live['verified_through']}" if live["verified_through"] >= 0 else "not verified yet"
    applied = f"version {live['applied']} of {live['table']}, {verified}" if live["applied"] >= 0 else "nothing yet"
    return f"{first} layer of the stream {live['stream']}: {live['rows']:,} rows{pending}, up to {applied}"
