"""Versions that are read from the remote until they are on this machine, so that an empty one answers at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.serve.store import Manifest, Snapshot, Store, open_remote, open_store
from forecache.serve.store.remote import read_remote_manifest, read_remote_pointer, remote_pipelines

_LOOK_EVERY_S = 5.0  # between looks at what the remote serves
_PATIENCE_S = 2.0  # for an answer of the remote: a request waits for it
_PAUSE_S = 3.0  # after a failure


class _Look(NamedTuple):
    at_s: float
    manifest: Manifest | None  # of the version that the remote serves
    has_layer: bool  # whether the remote has a live layer


class RemoteVersions:
    """The pipelines that the remote had at the start, and of which this machine has no served version yet.

    Once it has one of each, the remote is not asked any more: `forecache pull` brings what comes later. Raises what the
    remote's client raises, and then leaves the remote alone for a while.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remote: Folder | None = None
        self._names: set[str] | None = None if settings.store_remote else set()  # None: not listed yet
        self._looks: dict[str, _Look] = {}
        self._states: dict[str, object] = {}  # what was open of a version, and here of it
        self._pause_until = 0.0

    @property
    def has_listed(self) -> bool:
        """True once it is known which pipelines the remote has."""
        return self._names is not None

    def has(self, name: str) -> bool:
        return name in (self._names or ())

    def list_names(self) -> list[str]:
        """The pipelines to be read from the remote; none while it is left alone."""
        if self._names == set() or time.monotonic() < self._pause_until:
            return []
        if self._remote is None or self._names is None:
            with self._pause_after_failure():
                options = self._settings.storage_options
                self._remote = open_remote(self._settings.store_remote, options, patience_s=_PATIENCE_S)
                self._names = set(remote_pipelines(self._remote))
        for name in [name for name in self._names if open_store(self._settings, name).pointer().serving is not None]:
            self._names.discard(name)
        return sorted(self._names)

    def open_version(self, store: Store) -> Snapshot | None:
        """Open the version that the remote serves, if it is another one or more of it is here than when it was opened;
        its reads raise BlocksMissingError instead of waiting."""
        name, layout = store.pipeline, store.layout
        look = self._looks.get(name)
        if look is None or time.monotonic() - look.at_s > _LOOK_EVERY_S:
            assert self._remote is not None, "the names are listed"
            with self._pause_after_failure():
                look = self._looks[name] = _look(self._remote, name, None if look is None else look.manifest)
        manifest = look.manifest
        if manifest is None or (look.has_layer and not layout.live.exists()):
            return None  # without its live layer, which a pull brings first, older rows would answer than with it
        layout.create()
        parts = [layout.has_segment(segment.id) for segment in manifest.segments]
        has_filter = manifest.filter is not None and layout.filter(manifest.filter.file).exists()
        state = manifest.identity, parts, has_filter, layout.live.exists()
        if self._states.get(name) == state:
            return None
        snapshot = Snapshot(layout, manifest, remote=self._remote, waits=False)
        self._states[name] = state
        return snapshot

    @contextmanager
    def _pause_after_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._pause_until = time.monotonic() + _PAUSE_S
            raise


def _look(remote: Folder, name: str, known: Manifest | None) -> _Look:
    pointer = read_remote_pointer(remote, name)
    if pointer is None or pointer.serving is None:
        return _Look(time.monotonic(), None, False)
    if known is None or known.identity != (pointer.store, pointer.serving):
        known = read_remote_manifest(remote, name, pointer.serving)
    return _Look(time.monotonic(), known, remote.size(f"{name}/LIVE") is not None)
