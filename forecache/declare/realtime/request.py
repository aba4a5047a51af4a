"""The fields of a request, and the list of candidates that it asks to rank."""

from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, Literal

from forecache.base.errors import InputError
from forecache.base.table_names import check_column, check_unique
from forecache.declare.checks import check_fields, check_least, check_value

FieldType = Literal["bigint", "double", "boolean", "string", "timestamp", "date"]
FieldValue = int | float | bool | str | date | datetime
_MOST_CANDIDATES = 10_000
_BIGINT = range(-(2**63), 2**63)
_TAKES: dict[str, str] = {
    "bigint": "a whole number of 64 bits",
    "double": "a number",
    "boolean": "true or false",
    "string": "a text",
    "timestamp": "a moment such as 2026-03-01T08:30:00Z",
    "date": "a date such as 2026-03-01",
}


@dataclass(frozen=True)
class RequestField:
    """A field of a request, or of each candidate in it.

    A transform gets it as a numpy array: "bigint" as int64, "double" as float64, "boolean" as bool, "string" as objects
    of `str`, "timestamp" as datetime64[us] in UTC, "date" as datetime64[D].

    Attributes:
        default: Value of the field in a request that leaves it out or has null there; None: the field is required.
    """

    name: str
    type: FieldType
    default: FieldValue | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Request field {self.name!r}"
        check_fields(owner, self)
        check_column("A request", self.name)
        if self.default is not None:
            try:
                convert_value(self, self.default)
                fits = True
            except InputError:
                fits = False
            check_value(owner, "default", self.default, fits, f"It is {_TAKES[self.type]}.")


def convert_value(field: RequestField, value: Any) -> FieldValue:
    """Convert a parsed value to its field's type, a moment to one in UTC without a zone; null becomes the default.

    Raises InputError if it is of another type, or null although there is no default.
    """
    if value is None:
        if field.default is None:
            raise InputError(
                f"The request field {field.name!r} is missing.", remedy=f"It must be {_TAKES[field.type]}."
            )
        value = field.default
    found = _CONVERT[field.type](value)
    if found is None:
        shown = repr(value)
        raise InputError(
            f"The request field {field.name!r} is {shown[:80]}{'...' * (len(shown) > 80)}.",
            remedy=f"It must be {_TAKES[field.type]}.",
        )
    return found


def _convert_bigint(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and value in _BIGINT else None


def _convert_double(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _convert_boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _convert_string(value: Any) -> str | None:
    return value if isinstance(value, str) and (value.isascii() or _is_unicode(value)) else None


def _is_unicode(value: str) -> bool:
    """False for a text with half a surrogate pair, which neither a store nor a lake can have."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _convert_timestamp(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(f"{value[:-1]}+00:00" if value.endswith(("Z", "z")) else value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value
    except OverflowError:
        return None


def _convert_date(value: Any) -> date | None:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


_CONVERT = {
    "bigint": _convert_bigint,
    "double": _convert_double,
    "boolean": _convert_boolean,
    "string": _convert_string,
    "timestamp": _convert_timestamp,
    "date": _convert_date,
}


@dataclass(frozen=True)
class Candidates:
    """A list in the request whose items the model scores, and which the answer returns in their order.

    Attributes:
        fields: Fields of each candidate; the first identifies it in the answer. Candidates with one field may be sent
            as plain values.
        name: Name of the list in the request.
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
        return self.fields[0]
