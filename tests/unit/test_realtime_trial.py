"""Transforms that are wrong are found when their declaration loads, with what they got and returned, and the remedy."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked_project.pipelines.payments import payments
from asked_project.pipelines.search import search

from forecache import Rows
from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from forecache.declare import Feature, RequestField
from forecache.plugins.doctor.checks import check_project

_calls: list[int] = []


def narrow(rows: Rows) -> Any:
    return np.column_stack([rows["price"], rows["price"]])


def flat(rows: Rows) -> Any:
    return rows["price"]


def text(rows: Rows) -> Any:
    return np.column_stack([rows["product_id"]] * 3)


def complex_numbers(rows: Rows) -> Any:
    return np.zeros((len(rows), 3), np.complex64)


def nothing(rows: Rows) -> Any:
    return None


def listed(rows: Rows) -> Any:
    return np.zeros((len(rows), 3)).tolist()


def one_row(rows: Rows) -> Any:
    return np.zeros((1, 3))


def field_that_is_not(rows: Rows) -> Any:
    return np.column_stack([rows["prize"]] * 3)


def feature_that_is_not(rows: Rows) -> Any:
    return np.column_stack([rows.feature("household", "age")] * 3)


def view_that_is_not(rows: Rows) -> Any:
    return np.column_stack([rows.view("shop")])


def fails_on_nan(rows: Rows) -> Any:
    spend = [int(value) for value in rows.feature("household", "spend_28d")]
    return np.column_stack([spend] * 3)


def relative_to_the_dearest(rows: Rows) -> Any:
    return np.column_stack([rows["price"] / rows["price"].max()] * 3)


def fails_on_other_alphabets(rows: Rows) -> Any:
    sizes = [len(name.encode("ascii")) for name in rows["product_id"]]
    return np.array([sizes] * 3, np.float64).T


def fails_on_many(rows: Rows) -> Any:
    return np.zeros((len(rows), 3)) + 1 / (len(rows) < 9)


def random_numbers(rows: Rows) -> Any:
    return np.random.default_rng().random((len(rows), 3))


def counts_calls(rows: Rows) -> Any:
    _calls.append(1)
    return np.full((len(rows), 3), len(_calls))


def writes(rows: Rows) -> Any:
    price = rows["price"]
    price *= 2
    return np.column_stack([price] * 3)


def forces_its_way(rows: Rows) -> Any:
    price = rows["price"]
    while price.base is not None:
        price = price.base
    price.flags.writeable = True
    price += 1
    return np.column_stack([rows["price"]] * 3)


def passes_on(rows: Rows) -> Any:
    return rows.view("household")


def reverses(rows: Rows) -> Any:
    return rows.view("household")[:, ::-1]


def doubles(rows: Rows) -> Any:
    return np.column_stack([rows["price"], *rows.view("household").T]).astype(np.float64)


TWO = {"features": (Feature("a"), Feature("b"))}
WRONG: list[tuple[Callable[..., Any], dict[str, Any], str, str, str]] = [
    (narrow, {}, "one candidate", "returned an array of float64 with the shape (1, 2), and numbers of the shape (1, 3)",
     "a column for each declared feature"),
    (flat, {}, "one candidate", "returned an array of float64 with the shape (1,)", "a column for each"),
    (text, {}, "one candidate", "returned an array of object with the shape (1, 3)", "a column for each"),
    (complex_numbers, {}, "one candidate", "returned an array of complex64", "a column for each"),
    (nothing, {}, "one candidate", "returned a NoneType", "a column for each"),
    (listed, {}, "one candidate", "returned a list", "a column for each"),
    (one_row, {}, "candidates: 50", "returned an array of float64 with the shape (1, 3)", "a row for each row"),
    (field_that_is_not, {}, "one candidate", "there is no 'prize' among household_id, product_id, price", "declared"),
    (feature_that_is_not, {}, "one candidate", "'household' has no feature 'age'; it has spend_28d", "declared"),
    (view_that_is_not, {}, "one candidate", "there is no 'shop' among household, product", "declared"),
    (fails_on_nan, {}, "whose keys have no row (NaN)", "failed: ValueError: cannot convert float NaN", "is NaN"),
    (fails_on_other_alphabets, {}, "one candidate whose keys", "failed: UnicodeEncodeError", "any request that is"),
    (fails_on_many, {}, "candidates: 50, and some keys", "failed: ZeroDivisionError", "any request that is"),
    (random_numbers, {}, "candidates: 50", "returned other values when it was called again", "no clock"),
    (counts_calls, {}, "candidates: 50", "returned other values when it was called again", "no earlier call"),
    (writes, {}, "one candidate", "failed: ValueError: output array is read-only", ".copy()"),
    (forces_its_way, {}, "one candidate", "changed rows['price']", ".copy()"),
    (passes_on, TWO, "one candidate", "returned a view of rows.view('household')", "end with .copy()"),
    (reverses, TWO, "one candidate", "returned a view of rows.view('household')", "end with .copy()"),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "changed", "given", "told", "remedy"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_a_wrong_transform_is_refused_with_its_place_its_request_and_the_remedy(
    transform: Callable[..., Any], changed: dict[str, Any], given: str, told: str, remedy: str
) -> None:
    gate = replace(search.gate, baseline=()) if search.gate else None
    model = replace(search, transform=transform, gate=gate, **changed)
    with pytest.raises(SettingsError) as refused:
        _ = model.is_tried
    message, first = refused.value.message, transform.__code__.co_firstlineno
    assert message.startswith(f"Realtime 'search' has the transform {__name__}:{transform.__name__} (")
    assert given in message
    assert told in message
    assert "(household_id=" in message
    assert remedy in (refused.value.remedy or "")
    assert "\n" not in message
    line = int(message.partition("test_realtime_trial.py, line ")[2].partition(")")[0])
    assert first <= line <= first + 5  # of the statement that failed, else of the function
    assert line == first or "failed: " in message


def test_right_transforms_pass_whatever_type_of_number_they_return() -> None:
    assert search.is_tried
    assert payments.is_tried
    gate = replace(search.gate, baseline=()) if search.gate else None
    for transform in (doubles, relative_to_the_dearest):
        assert replace(search, transform=transform, gate=gate).is_tried
    assert replace(search, candidates=replace(search.candidates, most=1)).is_tried  # type: ignore[type-var]


def of_amount(rows: Rows) -> Any:
    assert rows["amount"][0] == rows["amount"][0], "an amount is a number"
    return np.column_stack([rows["amount"], rows["amount"]])


def of_note(rows: Rows) -> Any:
    return np.column_stack([[ord(note[0]) for note in rows["note"]]] * 2)


def test_what_a_request_may_hold_is_tried_and_nothing_else() -> None:
    assert replace(payments, transform=of_amount).is_tried
    with pytest.raises(SettingsError, match="given a request.*failed: AssertionError: an amount is a number"):
        _ = replace(payments, transform=of_amount, on_nan="accept").is_tried
    # An empty text may be sent, and where null is one, it is.
    note = RequestField("note", "string", default="")
    with pytest.raises(SettingsError, match="fields with a default are null.*failed: IndexError"):
        _ = replace(payments, transform=of_note, request=(*payments.request, note)).is_tried


def test_a_project_with_a_wrong_transform_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tried" / "pipelines"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "paid.py").write_text(
        "from dataclasses import replace\n"
        "from asked_project.pipelines.payments import payments as declared\n"
        # The transform stands below the declaration, and is found all the same.
        "def features(rows):\n    return rows['amonut']\n\n"
        "paid = replace(declared, name='paid', transform=features)\ndel declared\n"
    )
    environment = {
        **os.environ, "FORECACHE_PROJECT": "tried", "FORECACHE_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)]),
    }  # fmt: skip
    for command in (["run", "paid"], ["release", "build", "paid"]):
        program = (
            "import sys\nfrom forecache.cli.main import main\n"
            f"code = main({command!r})\n"
            "assert not {'pyspark', 'dagster', 'mlflow'} & {*sys.modules}, 'a heavy library was loaded'\n"
            "sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert (
            "The pipeline module tried.pipelines.paid cannot be used: Realtime 'paid' has the transform" in done.stderr
        )
        assert "tried/pipelines/paid.py, line 4" in done.stderr
        assert "there is no 'amonut' among household_id, amount" in done.stderr
        assert not (tmp_path / "home").exists()
    monkeypatch.syspath_prepend(tmp_path)
    finding = check_project(load_settings(home=tmp_path / "home", project="tried"))
    assert finding.state == "fail"
    assert "there is no 'amonut' among" in finding.found
