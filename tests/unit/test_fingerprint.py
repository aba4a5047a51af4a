"""Equal declarations have equal fingerprints, different ones have different ones, whatever their functions are."""

import dataclasses
import functools
import importlib
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_project.pipelines.visits import returns

from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from forecache.declare import EstimatorModel, Features, Output, Segment, Window
from forecache.declare.code import fingerprint

FACTOR = 3


def scaled(events: Any, by: int = FACTOR) -> Any:
    return events * by


def multiplied(by: Any) -> Callable[[Any], Any]:
    def multiply(events: Any) -> Any:
        return events * by

    return multiply


def counter() -> Callable[[], int]:
    total = 0

    def count() -> int:
        nonlocal total
        total += FACTOR
        return total

    return count


class Scale:
    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, events: Any) -> Any:
        return events * self.by

    def apply(self, events: Any) -> Any:
        return events * self.by


def made(width: int) -> type:
    class Network:
        def size(self) -> int:
            return width

    return Network


pair = (lambda x: x + 1, lambda x: x + 2)
nested = lambda x: lambda y: y + x  # noqa: E731

DIFFERENT: list[tuple[str, Any, Any]] = [
    ("argument of a partial", functools.partial(scaled, by=1), functools.partial(scaled, by=2)),
    ("partial of a partial", functools.partial(functools.partial(scaled, by=1)), functools.partial(scaled, by=2)),
    ("partial and function", functools.partial(scaled), scaled),
    ("closure", multiplied(1), multiplied(2)),
    ("closure over an array", multiplied(np.arange(3)), multiplied(np.arange(3.0))),
    ("closure over a function", multiplied(scaled), multiplied(counter)),
    ("lambdas of one line", pair[0], pair[1]),
    ("a lambda and the one inside of it", nested, nested(1)),
    ("what the inner lambda closes over", nested(1), nested(2)),
    ("state of an object", Scale(1), Scale(2)),
    ("object of a method", Scale(1).apply, Scale(2).apply),
    ("method", Scale(1).apply, Scale(1).__call__),
    ("class of a factory", made(1), made(2)),
    ("default", lambda x, by=1: x * by, lambda x, by=2: x * by),
    ("whole number and text", 1, "1"),
    ("tuple and list", (1, 2), [1, 2]),
    ("set", {1, 2}, {1, 3}),
    ("order of a mapping", {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ("library function", np.log1p, np.log),
    ("library class", functools.partial(dict), functools.partial(list)),
]


@pytest.mark.parametrize(("one", "other"), [row[1:] for row in DIFFERENT], ids=[row[0] for row in DIFFERENT])
def test_what_differs_has_another_fingerprint(one: Any, other: Any) -> None:
    assert fingerprint(value=one) == fingerprint(value=one)
    assert fingerprint(value=one) != fingerprint(value=other)


@pytest.mark.parametrize(
    "build",
    [
        lambda: functools.partial(scaled, by=2),
        lambda: multiplied([1, {"a": (2.5, None)}]),
        lambda: multiplied(np.arange(5)),
        lambda: Scale({"x", "y", "z"}),
        lambda: made(3),
        counter,
        lambda: functools.lru_cache(scaled),
    ],
)
def test_what_is_made_again_has_the_same_fingerprint(build: Callable[[], Any]) -> None:
    assert fingerprint(value=build()) == fingerprint(value=build())


def test_an_estimator_that_is_an_argument_counts_with_its_parameters() -> None:
    from sklearn.linear_model import LogisticRegression

    one, same, other = (multiplied(LogisticRegression(C=c)) for c in (1.0, 1.0, 2.0))
    assert fingerprint(value=one) == fingerprint(value=same) != fingerprint(value=other)


def test_a_value_that_cannot_be_compared_is_refused_when_it_is_declared() -> None:
    declared = dataclasses.replace(returns, model=EstimatorModel(build=functools.partial(multiplied, threading.Lock())))
    with pytest.raises(
        SettingsError, match=r"holds a _thread\.lock, of which Forecache cannot tell whether it has chan"
    ):
        assert declared.fingerprints


def test_values_of_a_declaration_whose_functions_are_elsewhere_count() -> None:
    """Bounds, labels and `log` in one module, functions in another."""
    cut = Segment("band", "return_probability", (0.3,), ("low", "high"))
    base = dataclasses.replace(returns, segments=(cut,))
    logged = dataclasses.replace(returns.feature_columns[2], log=True)
    changes: dict[str, Any] = {
        "scoring": {"segments": (dataclasses.replace(cut, bounds=(0.9,)),)},
        "scoring ": {"segments": (dataclasses.replace(cut, labels=("cold", "hot")),)},
        "scoring  ": {"outputs": (Output("return_probability", minimum=0.0, maximum=0.5),)},
        "training": {
            "features": Features(
                compute=returns.features.compute,
                columns=(*returns.feature_columns[:2], logged, *returns.feature_columns[3:]),
            )
        },
    }
    for stage, change in changes.items():
        other = dataclasses.replace(base, **change).fingerprints
        differing = {
            name for name, value in dataclasses.asdict(other).items() if value != getattr(base.fingerprints, name)
        }
        assert differing == {stage.strip()}
    assert base.fingerprint != dataclasses.replace(base, **changes["scoring"]).fingerprint


def test_a_function_without_source_counts_with_its_code_and_what_it_uses() -> None:
    def executed(body: str, **names: Any) -> Any:
        namespace: dict[str, Any] = {"__name__": "no_such_file", **names}
        exec(f"def f(x):\n    return {body}\n", namespace)
        return namespace["f"]

    assert fingerprint(value=executed("x + 1")) == fingerprint(value=executed("x + 1"))
    assert fingerprint(value=executed("x + 1")) != fingerprint(value=executed("x + 2"))
    assert fingerprint(value=executed("x + a", a=1)) != fingerprint(value=executed("x + a", a=2))
    assert fingerprint(value=executed("g(x)", g=scaled)) != fingerprint(value=executed("g(x)", g=counter))
    assert fingerprint(value=executed("x in {'a', 'b', 'c'}")) == fingerprint(value=executed("x in {'a', 'b', 'c'}"))


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes modules of a package and returns the fingerprint of `main.f` in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "reached"]:
            del sys.modules[name]

    def hashed(**sources: str) -> str:
        folder = tmp_path / "reached"
        folder.mkdir(exist_ok=True)
        for name, text in {"__init__": "", **sources}.items():
            (folder / f"{name}.py").write_text(text)
        forget()
        importlib.invalidate_caches()
        return fingerprint(value=importlib.import_module("reached.main").f)

    yield hashed
    forget()


REACHED: list[tuple[str, dict[str, str], dict[str, str]]] = [
    (
        "modules that import one another",
        {
            "main": "from reached import b\ndef f(x): return b.g(x)\n",
            "b": "from reached import main\ndef g(x): return 1\n",
        },
        {"b": "from reached import main\ndef g(x): return 2\n"},
    ),
    (
        "a package that imports its module",
        {
            "__init__": "from . import b\n",
            "main": "import reached\ndef f(x): return reached.b.g(x)\n",
            "b": "def g(x): return 1\n",
        },
        {"b": "def g(x): return 2\n"},
    ),
    (
        "a relative import inside of a function",
        {"main": "def f(x):\n    from .b import g as h\n    return h(x)\n", "b": "def g(x): return 1\n"},
        {"b": "def g(x): return 2\n"},
    ),
    (
        "a module that is passed on",
        {"main": "from reached import b\ndef f(x): return getattr(b, x)\n", "b": "def g(x): return 1\n"},
        {"b": "def g(x): return 2\n"},
    ),
    (
        "a name made up while it runs",
        {
            "main": "import importlib\ndef f(x): return importlib.import_module('reached.' + x).g\n",
            "b": "def g(x): return 1\n",
        },
        {"b": "def g(x): return 2\n"},
    ),
    (
        "globals",
        {"main": "def g(x): return 1\ndef f(x): return globals()[x](x)\n"},
        {"main": "def g(x): return 2\ndef f(x): return globals()[x](x)\n"},
    ),
    (
        "a function chosen by a condition",
        {"main": "if __debug__ is None:\n    g = f\nelse:\n    def g(x): return 1\ndef f(x): return g(x)\n"},
        {"main": "if __debug__ is None:\n    g = f\nelse:\n    def g(x): return 2\ndef f(x): return g(x)\n"},
    ),
    (
        "an attribute that is set at import",
        {"main": "from reached import b\nb.RATE = 1\ndef f(x): return b.RATE\n", "b": "RATE = 0\n"},
        {"main": "from reached import b\nb.RATE = 2\ndef f(x): return b.RATE\n"},
    ),
    (
        "an import for its effect",
        {
            "main": "import reached.c\nfrom reached import b\ndef f(x): return b.g(x)\n",
            "b": "def g(x): return 1\n",
            "c": "from reached import b\nb.g = lambda x: 2\n",
        },
        {"c": "from reached import b\nb.g = lambda x: 3\n"},
    ),
    (
        "what an import for its effect calls",
        {
            "main": "import reached.c\nfrom reached import b\ndef f(x): return b.g(x)\n",
            "b": "def g(x): return 1\n",
            "c": "from reached.d import patch\npatch()\n",
            "d": "from reached import b\ndef patch(): b.g = lambda x: 2\n",
        },
        {"d": "from reached import b\ndef patch(): b.g = lambda x: 3\n"},
    ),
    (
        "a property of a base class by another name",
        {
            "main": "from reached import b as base\nclass C(base.B):\n    pass\ndef f(x): return C().p\n",
            "b": "class B:\n    @property\n    def p(self): return helper()\ndef helper(): return 1\n",
        },
        {"b": "class B:\n    @property\n    def p(self): return helper()\ndef helper(): return 2\n"},
    ),
    (
        "a default that names a constant",
        {"main": "from reached.b import A\ndef f(x, a=A): return a\n", "b": "A = 1\n"},
        {"b": "A = 2\n"},
    ),
    (
        "a comprehension over a constant",
        {"main": "from reached.b import A\ndef f(x): return [a for a in A]\n", "b": "A = [1]\nA.append(2)\n"},
        {"b": "A = [1]\nA.append(3)\n"},
    ),
]


@pytest.mark.parametrize(("first", "changed"), [row[1:] for row in REACHED], ids=[row[0] for row in REACHED])
def test_an_edit_of_what_a_function_reaches_changes_its_fingerprint(
    modules: Callable[..., str], first: dict[str, str], changed: dict[str, str]
) -> None:
    before = modules(**first)
    assert modules(**first) == before
    assert modules(**{**first, **changed}) != before
    assert modules(**first) == before


def test_an_edit_beside_what_a_function_reaches_changes_nothing(modules: Callable[..., str]) -> None:
    main = "from reached import b\nother = 1\ndef f(x):\n    other = b.g(x)\n    return other\n"
    before = modules(main=main, b="def g(x): return 1\ndef h(x): return 1\n")
    assert modules(main=main.replace("other = 1", "other = 2"), b="def g(x): return 1\ndef h(x): return 2\n") == before


def test_a_project_in_an_archive_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    found = []
    for number in (1, 2):
        archive = tmp_path / f"archive{number}.zip"
        with zipfile.ZipFile(archive, "w") as written:
            written.writestr("zipped/__init__.py", "")
            written.writestr("zipped/main.py", "from zipped.b import g\ndef f(x): return g(x)\n")
            written.writestr("zipped/b.py", f"def g(x): return {number}\n")
        with monkeypatch.context() as patched:
            patched.syspath_prepend(str(archive))
            found.append(fingerprint(value=importlib.import_module("zipped.main").f))
        for name in [name for name in sys.modules if name.partition(".")[0] == "zipped"]:
            del sys.modules[name]
    assert found[0] != found[1]


def test_moving_a_class_or_function_of_forecache_to_another_module_changes_no_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window = Window("n", "count", 2)
    before = fingerprint(window=window, function=load_settings)
    monkeypatch.setattr(Window, "__module__", "forecache.elsewhere")
    moved = types.FunctionType(load_settings.__code__, {**load_settings.__globals__, "__name__": "forecache.other"})
    moved.__qualname__, moved.__kwdefaults__ = load_settings.__qualname__, load_settings.__kwdefaults__
    moved.__defaults__ = load_settings.__defaults__
    assert fingerprint(window=window, function=moved) == before
    assert fingerprint(window=dataclasses.replace(window, days=3), function=moved) != before
