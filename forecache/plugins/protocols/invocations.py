"""MLflow's scoring protocol: `/invocations` takes rows or columns, and answers with `predictions`.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.plugins.protocols.columns import AnswerColumns, Column
from forecache.serve.reader.http.parsing import describe_type

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")


def parse_columns(body: bytes) -> dict[str, Column]:
    """Parse the columns in a body.

    Raises:
        Problem: 400, with the mistake.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad_request(f"The body is not JSON: {error}.") from None
    given = [form for form in FORMS if type(data) is dict and form in data]
    if len(given) != 1:
        raise _bad_request(f"The body must be an object with one of {', '.join(FORMS)}.")
    [form] = given
    if data.get("params"):
        raise _bad_request("`params` are not taken; a deadline is asked for by the header X-Deadline-Ms.")
    if form == "dataframe_split":
        return _split(data[form])
    if form == "inputs" or type(data[form]) is dict:
        return _columns_by_name(form, data[form])
    return _records(form, data[form])


def _split(table: Any) -> dict[str, Column]:
    columns, rows = (table.get("columns"), table.get("data")) if type(table) is dict else (None, None)
    if type(columns) is not list or type(rows) is not list or not all(type(name) is str for name in columns):
        raise _bad_request(
            "`dataframe_split` must be an object with an array `columns` of names and an array `data` of rows."
        )
    if len(set(columns)) != len(columns):
        raise _bad_request("A name is twice among the columns of `dataframe_split`.")
    for place, row in enumerate(rows):
        if type(row) is not list or len(row) != len(columns):
            raise _bad_request(f"Row {place} of `dataframe_split` is not an array of {len(columns)} values.")
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}


def _records(form: str, rows: Any) -> dict[str, Column]:
    if type(rows) is not list:
        raise _bad_request(f"`{form}` is {describe_type(rows)}; it must be an array of objects, one for each row.")
    for place, row in enumerate(rows):
        if type(row) is not dict:
            raise _bad_request(
                f"Row {place} of `{form}` is {describe_type(row)}; it must be an object that names its values."
            )
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _columns_by_name(form: str, columns: Any) -> dict[str, Column]:
    if type(columns) is not dict:
        raise _bad_request(f"`{form}` is {describe_type(columns)}; it must be an object that names its values.")
    return {name: values if type(values) is list else [values] for name, values in columns.items()}


def render_predictions(answers: Sequence[AnswerColumns], said: Mapping[str, Any]) -> bytes:
    """Encode the answer: a score for each row, in their order, null for none. MLflow ignores further members.

    Args:
        said: Further members, beside `rungs`.
    """
    predictions = np.concatenate([each.scores for each in answers]) if answers else np.empty(0)
    rungs = [rung for each in answers for rung in each.rungs]
    return orjson.dumps({"predictions": predictions, "rungs": rungs, **said}, option=orjson.OPT_SERIALIZE_NUMPY)


def _bad_request(detail: str) -> Problem:
    return Problem(problems.BAD_REQUEST, detail)
