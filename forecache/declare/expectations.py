"""Expectations of a table, by their names in Great Expectations."""

import difflib
import importlib.util
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from forecache.base.errors import SettingsError
from forecache.declare.checks import check_fields, check_known


@dataclass(frozen=True)
class Expectation:
    """One Great Expectations expectation by its snake-case type, such as `expect_column_values_to_not_be_null`.

    If a critical one fails, the stages after it do not run; a failed warning is only shown.
    """

    type: str
    arguments: Mapping[str, Any]
    severity: Literal["critical", "warning"] = "critical"

    def __post_init__(self) -> None:
        check_fields(f"The expectation {self.type!r}", self)
        known = known_types()
        if known and self.type not in known:
            close = difflib.get_close_matches(self.type, known, n=1)
            raise SettingsError(
                f"There is no expectation {self.type!r}.",
                remedy=f"Did you mean {close[0]!r}?" if close else "Great Expectations lists them in its gallery.",
            )

    @property
    def columns(self) -> tuple[str, ...]:
        named = (self.arguments[name] for name in ("column", "column_A", "column_B") if name in self.arguments)
        return (*named, *self.arguments.get("column_list", ()))


@cache
def known_types() -> frozenset[str]:
    """Names of the expectations in the installed Great Expectations, from its file names: its import takes seconds."""
    spec = importlib.util.find_spec("great_expectations")
    places = (spec.submodule_search_locations if spec else None) or ()
    return frozenset(f.stem for place in places for f in (Path(place) / "expectations" / "core").glob("expect_*.py"))


def check_columns(owner: str, expectations: Iterable[Expectation], columns: Collection[str]) -> None:
    for expectation in expectations:
        use = f"{owner} expects {expectation.type} of the column"
        check_known(use, expectation.columns, columns, ", which its table does not have", "It has")


def expect(type_: str, /, *, severity: Literal["critical", "warning"] = "critical", **arguments: Any) -> Expectation:
    """Make an `Expectation`: `expect("expect_column_values_to_be_between", column="amount", min_value=0)`."""
    return Expectation(type_, arguments, severity)
