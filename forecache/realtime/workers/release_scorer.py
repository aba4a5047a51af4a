"""The scorer of a release in a model process: its model and transform, what they import, and examples to warm up."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.realtime.release.folder import ReleaseFolder, read_release
from forecache.realtime.release.format import CODE_FOLDER, Release
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest
from forecache.realtime.request.request_parser import RequestParser

LOAD = f"{__name__}:load"
_LIBRARIES = {"onnx": (), "function": (), "skops": ("skops.io", "sklearn")}
"""Libraries of runtimes not named like a module. Importing ONNX Runtime starts a thread, so forks import it."""


class ReleaseScorer:
    """Transform and model of a release."""

    def __init__(self, loaded: LoadedRelease) -> None:
        self._loaded = loaded
        self.examples = list(_examples(loaded))

    def features(self, request: ParsedRequest, found: LookupResult) -> np.ndarray:
        rows = self._loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known)
        return self._loaded.features_of(rows)

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self._loaded.scores_of(features)


def load(place: Path) -> ReleaseScorer:
    """Load the scorer of a release from its folder."""
    return ReleaseScorer(load_release(ReleaseFolder(place.parent.parent), int(place.name)))


def needs(place: Path) -> Iterator[str]:
    """Names of the libraries that a release imports: those of its model's runtime and of its code."""
    release = read_release(ReleaseFolder(place.parent.parent), int(place.name))
    yield from _LIBRARIES.get(release.model.runtime, (release.model.runtime,))
    files = [place / name for name in release.files if name.startswith(f"{CODE_FOLDER}/")]
    own = {file.relative_to(place / CODE_FOLDER).parts[0].removesuffix(".py") for file in files}
    for file in files:
        for name in _imported_modules(ast.parse(file.read_bytes())):
            if name.partition(".")[0] not in own:
                yield name


def _examples(loaded: LoadedRelease) -> Iterator[tuple[ParsedRequest, LookupResult]]:
    """Parse the recorded requests; all look-ups are empty, as this process reads no stores."""
    parser = RequestParser(loaded.release)
    for body in loaded.warmup:
        with suppress(Problem):  # recorded for an earlier release, which took other requests
            request = parser.parse(body)
            if request.length:
                yield request, _empty_lookups(loaded.release, request.length)


def _empty_lookups(release: Release, rows: int) -> LookupResult:
    return LookupResult(
        {each.called: np.full((rows, len(each.columns)), np.nan, np.float32) for each in release.lookups},
        {each.called: np.zeros(rows, np.bool_) for each in release.lookups},
    )


def _imported_modules(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
