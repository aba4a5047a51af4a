"""A release as a model of the Open Inference Protocol: its metadata, inputs and responses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forecache.declare.realtime.request import FieldType
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, quote_value
from forecache.plugins.protocols.columns import AnswerColumns, Column
from forecache.plugins.protocols.open_inference.tensors import BYTES, InferRequest, Tensor, render_response
from forecache.realtime.release.format import Release

PLATFORM = "forecache"
RUNG, RANK = "rung", "rank"
_DATATYPE: Mapping[FieldType, str] = {
    "bigint": "INT64", "double": "FP64", "boolean": "BOOL", "string": BYTES, "timestamp": BYTES, "date": BYTES
}  # fmt: skip
_KINDS: Mapping[FieldType, str] = {"bigint": "iu", "double": "fiu", "boolean": "b"}


def model_metadata(release: Release) -> dict[str, Any]:
    """Return the model's metadata. Its version is the release's number; dates and timestamps are texts in ISO 8601."""
    own = {each.name for each in release.request} if release.candidates is not None else set()
    inputs = [
        {
            "name": each.name,
            "datatype": _DATATYPE[each.type],
            "shape": [1] if each.name in own else [-1],
            "parameters": {"optional": each.default is not None, "type": each.type},
        }
        for each in release.all_fields
    ]
    outputs = [{"name": release.output, "datatype": "FP64", "shape": [-1]}]
    if release.candidates is not None:
        outputs.append({"name": RANK, "datatype": "INT64", "shape": [-1]})
    outputs.append({"name": RUNG, "datatype": BYTES, "shape": [-1]})
    return {
        "name": release.name,
        "versions": [str(release.number)],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


def input_columns(release: Release, inputs: Sequence[Tensor]) -> dict[str, Column]:
    """Convert the inputs to columns of their fields' types; an unknown input is left to `requests_of`.

    Raises:
        Problem: 400: an input has another datatype.
    """
    types = {each.name: each.type for each in release.all_fields}
    found: dict[str, Column] = {}
    for tensor in inputs:
        wanted = types.get(tensor.name)
        if wanted is None:
            found[tensor.name] = tensor.values
            continue
        values, kinds = tensor.values, _KINDS.get(wanted)
        fits = (
            isinstance(values, list) if kinds is None else isinstance(values, np.ndarray) and values.dtype.kind in kinds
        )
        if not fits:
            raise Problem(
                problems.BAD_REQUEST,
                f"The input {quote_value(tensor.name)} is {tensor.datatype}; it is a {wanted}, sent as "
                f"{_DATATYPE[wanted]}.",
            )
        if isinstance(values, np.ndarray) and wanted == "double":
            values = values.astype(np.float64)
        elif isinstance(values, np.ndarray) and wanted == "bigint":
            values = _as_int64(tensor.name, values)
        found[tensor.name] = values
    return found


def _as_int64(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        raise Problem(problems.BAD_REQUEST, f"The input {quote_value(name)} has a number that INT64 does not hold.")
    return values.astype(np.int64)


def infer_response(
    release: Release, asked: InferRequest, answers: Sequence[AnswerColumns], parameters: Mapping[str, Any]
) -> tuple[bytes, int]:
    """Encode the response: the body, and the length of its JSON part; 0 if all of it is JSON.

    Args:
        answers: Of each request in it; several only if the model ranks no candidates.

    Raises:
        Problem: 400: an unknown output is requested.
    """
    outputs = {each.name: each for each in _outputs(release, answers)}
    wanted = asked.wanted if asked.wanted is not None else dict.fromkeys(outputs, asked.binary)
    if unknown := wanted.keys() - outputs.keys():
        names = ", ".join(outputs)
        raise Problem(
            problems.BAD_REQUEST, f"There is no output {quote_value(min(unknown))}; {release.name} has {names}."
        )
    head: dict[str, Any] = {"model_name": release.name, "model_version": str(release.number)}
    if asked.id:
        head["id"] = asked.id
    head["parameters"] = parameters
    return render_response(head, [outputs[name] for name in wanted], list(wanted.values()))


def _outputs(release: Release, answers: Sequence[AnswerColumns]) -> list[Tensor]:
    scores = np.concatenate([each.scores for each in answers]) if answers else np.empty(0)
    found = [Tensor(release.output, "FP64", scores)]
    if release.candidates is not None:
        found.append(Tensor(RANK, "INT64", answers[0].ranks))
    return [*found, Tensor(RUNG, BYTES, [rung for each in answers for rung in each.rungs])]
