"""Modules and rows of `make bench-realtime`, for tests of what it computes; the benchmarks have to be importable."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2] / "benchmarks" / "_realtime" / "project"


def bench_sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """What imports a section's module, which names a project of its own to this process."""
    monkeypatch.setenv("FORECACHE_PROJECT", "bench_ranking")
    monkeypatch.syspath_prepend(str(PROJECT))
    before = set(sys.modules)
    yield lambda name: importlib.import_module(f"_realtime.{name}")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("_realtime", "bench_ranking"):
            del sys.modules[name]


def row_of(rows: list[Any], key: str) -> Any:
    return next(row for row in rows if row.key == key)
