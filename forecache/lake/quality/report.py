"""The result of a validation, in figures for programs and in a sentence for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class CheckResult:
    """One expectation's outcome.

    Attributes:
        expectation: Its snake-case type.
        subject: The column or columns that it constrains, "" for the table as a whole.
        sentence: The outcome in words.
        observed: The aggregate that was compared; None for an expectation about single values.
        unexpected_count: Rows that violate it; None for an expectation about an aggregate.
        unexpected_percent: `unexpected_count` as a percentage of the rows.
    """

    expectation: str
    subject: str
    severity: Literal["critical", "warning"]
    success: bool
    sentence: str
    observed: float | str | None = None
    unexpected_count: int | None = None
    unexpected_percent: float | None = None


@dataclass(frozen=True)
class CheckReport:
    """All outcomes of one validation; `success` is False if a critical expectation failed."""

    name: str
    results: tuple[CheckResult, ...]
    rows: int
    seconds: float

    @property
    def success(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The critical expectations that failed."""
        return tuple(r for r in self.results if not r.success and r.severity == "critical")

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """The expectations of severity warning that failed."""
        return tuple(r for r in self.results if not r.success and r.severity == "warning")

    @property
    def sentence(self) -> str:
        """The verdict on the critical expectations in one sentence, which names the first failures."""
        critical = sum(result.severity == "critical" for result in self.results)
        if self.success:
            return f"{self.name}: {critical} expectations hold over {self.rows:,} rows."
        reasons = " ".join(result.sentence for result in self.failures[:3])
        more = f" And {len(self.failures) - 3} more." if len(self.failures) > 3 else ""
        return f"{self.name} fails {len(self.failures)} of {critical} expectations: {reasons}{more}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CheckReport":
        results = tuple(CheckResult(**result) for result in values["results"])
        return cls(values["name"], results, values["rows"], values["seconds"])
