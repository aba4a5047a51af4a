"""The model behind a BentoML service: one release on the current versions of local stores."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, time
from typing import Any

import numpy as np

from forecache.base.errors import ForecacheError, InputError, UnavailableError
from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.load import load_release
from forecache.realtime.request.request_answer import LookupResult, NoScores, ParsedRequest
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_answers import answers_of
from forecache.serve.reader.versions.live_layers import LiveLayers
from forecache.serve.store import Store

logger = logging.getLogger("forecache.realtime")
LOOK_EVERY_S = 1.0


class BentoModel:
    """A release, as `forecache release bento` copied it, on the current versions in `store_path`; one thread only."""

    def __init__(self, folder: Path, store_path: Path) -> None:
        self._loaded = load_release(ReleaseFolder(folder.parent.parent), int(folder.name))
        release = self._release = self._loaded.release
        self._parser = RequestParser(release)
        self._stores = _FollowedStores(store_path, sorted({each.view for each in release.lookups}))
        self._lookups = ViewLookups(release.lookups, self._stores.served, refuses=release.on_contract == "refuse")
        self._stores.follow_pointers()
        for name in self._stores.missing():
            logger.warning("The view %s has no version in %s. %s", name, store_path, missing_views_remedy(name))
        # A replaced version is closed at once, so no other thread may be reading it.
        self._turn = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request as `POST /v1/<name>` does, without fallbacks, deadline and times.

        Raises InputError for a wrong request, and UnavailableError if a view has no version here that may be used.
        """
        with self._turn:
            return self._ask_locked(request, time())

    def _ask_locked(self, request: Mapping[str, Any], now: float) -> dict[str, Any]:
        self._stores.follow_pointers()
        try:
            parsed = self._parser.parse_members(request)
            found = self._lookups.read(parsed, now)
        except Problem as problem:
            raise InputError(problem.detail) from None
        except NoScores as error:
            missing = self._stores.missing()
            raise UnavailableError(str(error), remedy=missing_views_remedy(*missing) if missing else "") from None
        if not parsed.length:
            # As in the reader, a transform gets no empty request.
            return self._render_answer(parsed, found, np.empty(0))
        columns = RequestArrays(parsed.length, parsed.columns)
        scores = self._loaded.score(self._loaded.builder.build_rows(columns, found.views, found.known))
        return self._render_answer(parsed, found, scores)

    def _render_answer(self, parsed: ParsedRequest, found: LookupResult, scores: np.ndarray) -> dict[str, Any]:
        # The reader's renderer has no text for infinite scores, which a service of BentoML returns as they are.
        release = self._release
        values = [None if score != score else float(score) for score in scores]  # without loss, also of a float32
        answer: dict[str, Any] = {"name": release.name, "request_id": parsed.request_id or None}
        if release.candidates is None:
            answer["value"] = {release.output: values[0]}
        else:
            item, order = release.candidates.item.name, (-scores).argsort(kind="stable").tolist()
            answer["items"] = [{item: parsed.items[place], release.output: values[place]} for place in order]
        if found.warnings:
            answer["warnings"] = list(found.warnings)
        stores = {
            name: {
                "version": each.manifest.version, "as_of": each.manifest.as_of, "age_s": each.age_s, "stale": each.stale
            }
            for name, each in found.versions.items()
        }  # fmt: skip
        return {**answer, "model": release.model.summary, "release": release.number, "stores": stores}


def missing_views_remedy(*views: str) -> str:
    return (
        "A BentoML service reads stores in its own folder, FORECACHE_STORE, and none in Redis or in an object store: "
        f"`forecache store pull {' '.join(views)}` brings what FORECACHE_STORE_REMOTE has."
    )


class _FollowedStores:
    """The current versions of some stores; the pointers are read again each second."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.served: dict[str, VersionAnswers] = {}
        self._stores = [Store(folder / name) for name in names]
        self._layers = LiveLayers()
        self._seen: dict[str, Any] = {}
        self._look_at = float("-inf")

    def missing(self) -> list[str]:
        return [store.pipeline for store in self._stores if store.pipeline not in self.served]

    def follow_pointers(self) -> None:
        """Open the current versions; if one cannot be opened, the version before it stays."""
        if monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK_EVERY_S
        for store in self._stores:
            try:
                pointer, layer = store.pointer(), self._layers.open_layer(store)
                if self._seen.get(store.pipeline) == (pointer, layer) or pointer.current is None:
                    continue
                answers = answers_of(store.snapshot(), layer)
            except ForecacheError:
                continue
            old = self.served.get(store.pipeline)
            self.served[store.pipeline], self._seen[store.pipeline] = answers, (pointer, layer)
            if old is not None:
                old.snapshot.close()
