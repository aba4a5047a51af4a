"""Pack the code of a release, and prove before it is written that it gives the same bits as the project's own code."""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, ForecacheError, InputError
from forecache.declare.code.fingerprint import ValueDescriber
from forecache.declare.code.location import is_project_module, source_file
from forecache.declare.code.reach import ReachedCode
from forecache.declare.code.source import parse_module, parse_without_docstrings
from forecache.declare.realtime.request import Candidates, FieldValue, RequestField
from forecache.declare.realtime.request_rows import RequestArrays, Rows, apply_transform
from forecache.kit.http.problems import Problem
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import LoadedRelease, release_from_parts
from forecache.realtime.release.release_code import packages_above
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


_IMPORTS_ANYTHING = re.compile(
    r"\b(import_module|__import__|sys\.modules|from sys import modules|resolve_name|module_from_spec|runpy)\b"
)


def pack_code(used: Sequence[Callable[..., Any] | ModuleType]) -> dict[str, bytes]:
    """Collect the source of all project modules that functions or whole modules use, by path: "shop/search.py".

    The packages that contain them are included, as importing a module runs them.
    """
    reach = ReachedCode()
    describer = ValueDescriber(reach)
    own = {
        f"{each.__name__ if isinstance(each, ModuleType) else each.__module__}:": describer.describe_declared(each)
        for each in used
    }
    reach.follow_all()
    for key, text in (*own.items(), *reach.pieces.items()):
        # What an import binds stands in the key: "shop.search:load = from importlib import import_module".
        if _IMPORTS_ANYTHING.search(text) or _IMPORTS_ANYTHING.search(key.partition(" = ")[2]):
            raise InputError(
                f"The code of a release imports by a name that it makes up, in {key.partition(':')[0]}.",
                remedy="Import modules by their names, so that all of them can be packed.",
            )
    modules = {key.partition(":")[0] for key in reach.pieces}
    modules |= {above for name in modules for above in packages_above(name)}
    found = {}
    for module in sorted(filter(is_project_module, modules)):
        source = _read_source(module)
        if source is not None:
            path, content = source
            found[path] = content
    return found


def _read_source(module: str) -> tuple[str, bytes] | None:
    """Read the path and content of a module's file; None for a package without one."""
    file = source_file(module)
    if file is None:
        return None
    path = module.replace(".", "/")
    path = f"{path}/__init__.py" if file.name == "__init__.py" else f"{path}.py"
    known = parse_module(module)
    if known is None or not file.is_file():
        raise InputError(
            f"The module {module} has no source in a file of its own: {file}.",
            remedy="A release holds plain Python: write what the transform needs in a .py file.",
        )
    content = file.read_bytes()
    if ast.unparse(parse_without_docstrings(content)) != known.text_of(known.tree):
        raise InputError(f"The module {module} was changed since it was loaded.", remedy="Start the process again.")
    return path, content
