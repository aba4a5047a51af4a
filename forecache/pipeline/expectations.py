"""What a table has to satisfy, as Great Expectations names it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Expectation:
    """One Great Expectations expectation by its snake-case type, such as `expect_column_values_to_not_be_null`.

    A critical one that fails blocks what is downstream; a warning is shown and lets the run go on.
    """

    type: str
    arguments: Mapping[str, Any]
    severity: Literal["critical", "warning"] = "critical"


def expect(type_: str, /, *, severity: Literal["critical", "warning"] = "critical", **arguments: Any) -> Expectation:
    """Shorthand: `expect("expect_column_values_to_be_between", column="amount", min_value=0)`."""
    return Expectation(type_, arguments, severity)
