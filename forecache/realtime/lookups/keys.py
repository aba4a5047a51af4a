"""Encode the keys of a look-up from fields of a request."""

from collections.abc import Sequence

from forecache.errors import InputError
from forecache.reader.http import problems
from forecache.reader.http.problems import Problem
from forecache.realtime.request.parsed import ParsedRequest
from forecache.store import KeySchema
from forecache.store.keys import encode_columns


def keys_of(schema: KeySchema, fields: Sequence[str], request: ParsedRequest) -> list[bytes]:
    """Encode a key for each candidate; only one if all fields are of the request.

    Raises:
        Problem: 400: the values are not a valid key, such as an empty text.
    """
    columns = [request.columns[field] for field in fields]
    if len(columns) > 1:
        longest = max(map(len, columns))
        columns = [column if len(column) == longest else column.repeat(longest) for column in columns]
    try:
        return encode_columns(schema, columns)
    except InputError as error:
        raise Problem(problems.BAD_KEY, f"{error} It comes from {', '.join(fields)}.") from None
