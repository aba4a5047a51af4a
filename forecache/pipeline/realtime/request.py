"""The fields of a request, and the list of candidates that it asks to rank."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from forecache.pipeline.checks.checking import check_fields, check_least, check_value
from forecache.pipeline.names import check_column, check_unique

FieldType = Literal["bigint", "double", "boolean", "string", "timestamp", "date"]
FieldValue = int | float | bool | str | date | datetime
_MOST_CANDIDATES = 10_000


@dataclass(frozen=True)
class RequestField:
    """A field of a request, or of each candidate in it.

    A transform gets it as a numpy array: "bigint" as int64, "double" as float64, "boolean" as bool, "string" as objects
    of `str`, "timestamp" as datetime64[us] in UTC, "date" as datetime64[D].

    Attributes:
        default: What a request that leaves the field out, or has null there, is given; None: the field is required.
    """

    name: str
    type: FieldType
    default: FieldValue | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Request field {self.name!r}"
        check_fields(owner, self)
        check_column("A request", self.name)


@dataclass(frozen=True)
class Candidates:
    """A list in the request whose items the model scores, and which the answer returns in their order.

    Attributes:
        fields: Of each candidate; the first names it in the answer. A list of candidates with one field may be sent as
            plain values.
        name: Of the list in the request.
        most: A request with more candidates is refused.
    """

    fields: tuple[RequestField, ...]
    name: str = "candidates"
    most: int = 200

    def __post_init__(self) -> None:
        check_fields("`Candidates`", self)
        check_value("`Candidates`", "fields", self.fields, bool(self.fields), "Declare at least the one that names it.")
        check_column("`Candidates`", self.name)
        check_unique("field", "`Candidates`", [field.name for field in self.fields])
        check_least("`Candidates`", self, 1, "most")
        check_value("`Candidates`", "most", self.most, self.most <= _MOST_CANDIDATES, f"At most {_MOST_CANDIDATES:,}.")

    @property
    def item(self) -> RequestField:
        """The field that names a candidate."""
        return self.fields[0]
