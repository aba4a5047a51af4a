"""Prove a release before it is written: the packed code gives the same bits as the project's own code."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, ForecacheError
from forecache.declare.realtime.request import Candidates, FieldValue, RequestField
from forecache.declare.realtime.request_rows import RequestArrays, Rows, apply_transform
from forecache.kit.http.problems import Problem
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import LoadedRelease, release_from_parts
from forecache.realtime.request.request_parser import RequestParser

_CANDIDATES = 50
_SAMPLES: Mapping[str, FieldValue] = {
    "bigint": 1,
    "double": 1.0,
    "boolean": False,
    "string": "1",
    "timestamp": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
}


def example_requests(request: Sequence[RequestField], candidates: Candidates | None) -> list[bytes]:
    """Make a request in the reader's own JSON with a value for each field, for models without recorded requests."""
    found: dict[str, Any] = {field.name: _sample(field) for field in request}
    if candidates is not None:
        one = {field.name: _sample(field) for field in candidates.fields}
        found[candidates.name] = [one] * min(candidates.most, _CANDIDATES)
    return [json.dumps(found).encode()]


def _sample(field: RequestField) -> Any:
    return _SAMPLES[field.type] if field.default is None else json.loads(json.dumps(field.default, default=str))


def prove_release(
    release: Release,
    transform: Callable[[Rows], Any],
    *,
    model: bytes,
    code: Mapping[str, bytes],
    warmup: Sequence[bytes],
) -> None:
    """Answer each request by the release as it will be loaded, with features found and with none found.

    Args:
        transform: The project's own function; the packed one must give the same bits.

    Raises:
        CheckError: A request fails, or the two results differ.
        InputError: The code cannot be imported, or the model cannot be loaded.
    """
    parser = RequestParser(release)
    loaded = release_from_parts(release, Path("release"), model=model, code=code, warmup=warmup)
    try:
        for number, request in enumerate(warmup):
            parsed = parser.parse(request)
            columns = RequestArrays(parsed.length, parsed.columns)
            for seed in (None, number):
                _compare(loaded, transform, columns, seed)
    except (ForecacheError, Problem) as error:
        raise CheckError(f"The release of {release.name} cannot answer a request that was recorded: {error}") from error
    finally:
        loaded.close()


def _compare(loaded: LoadedRelease, transform: Callable[[Rows], Any], columns: RequestArrays, seed: int | None) -> None:
    release = loaded.release
    features, again = (loaded.features_of(_random_rows(loaded, columns, seed)) for _ in range(2))
    own = apply_transform(transform, release.transform, _random_rows(loaded, columns, seed), len(release.features))
    if not features.tobytes() == again.tobytes() == own.tobytes():
        raise CheckError(
            f"The transform {release.transform} gives other bits at another call, or in the project, than it gave in "
            "the release.",
            remedy="It may depend on nothing but its rows: no clock, no random number, no file, no earlier call.",
        )
    loaded.scores_of(features)


def _random_rows(loaded: LoadedRelease, columns: RequestArrays, seed: int | None) -> Rows:
    """Make the rows of a request with random features and some unknown keys; without a seed, all keys are unknown."""
    views, found = {}, {}
    of_request = {field.name for field in loaded.release.request}
    for place, lookup in enumerate(loaded.release.lookups):
        count = 1 if set(lookup.by) <= of_request else columns.length
        generator = np.random.default_rng([place, seed or 0])
        known = np.zeros(count, bool) if seed is None else generator.random(count) < 0.8
        values = generator.normal(size=(count, len(lookup.columns))).astype(np.float32)
        values[~known] = np.nan
        views[lookup.called], found[lookup.called] = values, known
    return loaded.builder.build_rows(columns, views, found)
