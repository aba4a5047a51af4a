"""Tables of answers and figures with more fields than a terminal has columns, or a person reads lines."""

from typing import Any

import pytest

from forecache.cli.commands.get import show_fields_as_rows
from forecache.plugins.parity.command import show_parity

NAMES = [f"f{number:03d}" for number in range(136)]


def test_an_answer_has_a_row_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"key": "north", "found": True, "value": {name: number for number, name in enumerate(NAMES)}}
    show_fields_as_rows(NAMES, [found, {"key": "nobody", "found": False}], "as of today")
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in shown if line.strip().startswith("f")]
    assert rows[0] == ["field", "north", "nobody"]
    assert rows[1:] == [[name, str(number), "no", "such", "key"] for number, name in enumerate(NAMES)]
    assert shown[-1] == "as of today"


@pytest.mark.parametrize("number", [20, 136])
def test_parity_shows_each_feature_that_differs_and_some_others(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("missing", "extra", "mean_abs", "max_abs", "smape", "p99_abs")
    equal: dict[str, Any] = {"compared": 7, "mismatch": 0, **dict.fromkeys(columns, 0)}
    different = {name: equal | {"mismatch": 3} for name in NAMES[number - 25 : number]} if number > 25 else {}
    features = dict.fromkeys(NAMES[:number], equal) | different
    show_parity({
        "features": features, "scores": equal, "day": "2026-12-01", "stores": [], "first": [], "passed": True,
        "sentence": "All are equal.",
    })  # fmt: skip
    shown = capsys.readouterr().out
    named = [line.split()[0] for line in shown.splitlines() if line.strip().startswith("f") and "feature" not in line]
    assert named == (list(different) if different else NAMES[:20])
    assert ("and 111 features more without a difference" in shown) == bool(different)
