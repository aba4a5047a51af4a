"""Parse requests and encode responses of the Open Inference Protocol: tensors in JSON, and as bytes after it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and Triton's
extension_binary_data.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from forecache.kit.http.problems import bad_request, describe_type, parse_json_object, quote_value

HEADER_LENGTH = "inference-header-content-length"
"""Header with the number of bytes of a body that are JSON; tensors follow."""
BYTES = "BYTES"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with its values flattened: an array of a fixed type, or a list of texts (BYTES)."""

    name: str
    datatype: str
    values: np.ndarray | Sequence[str]
    shape: tuple[int, ...] = ()  # as sent; empty: a vector


@dataclass(frozen=True, slots=True)
class InferRequest:
    id: str  # "" if the client gave none
    inputs: Sequence[Tensor]
    wanted: Mapping[str, bool] | None  # by requested output, True for bytes; None: all outputs, as `binary` says
    binary: bool
    timeout_ms: float | None


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Parse the request in a body; raises a `Problem` (400). Without `header_length`, all of the body is JSON."""
    text, tail = _split(body, header_length)
    data = parse_json_object(text)
    if type(data.get("inputs")) is not list:
        raise bad_request("The body must be an object with an array `inputs`.")
    parameters = _parameters(data, "The request")
    tensors, place = [], 0
    for each in data["inputs"]:
        tensor, place = _tensor(each, tail, place)
        tensors.append(tensor)
    if place != len(tail):
        raise bad_request(f"{len(tail) - place} bytes follow the tensors that the JSON names; check binary_data_size.")
    names = [each.name for each in tensors]
    if len(set(names)) != len(names):
        raise bad_request("An input is there twice; send each once.")
    binary = parameters.get("binary_data_output", False) is True
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) not in (int, float) or timeout < 0):
        raise bad_request(f"The parameter `timeout` is {quote_value(timeout)}; it is a number of microseconds.")
    given = data.get("id", "")
    if type(given) is not str:
        raise bad_request(f"The member `id` is {describe_type(given)}; it must be a string.")
    timeout_ms = None if timeout is None else timeout / 1000
    return InferRequest(given, tensors, _requested_outputs(data, binary), binary, timeout_ms)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdecimal() or int(header_length) > len(body):
        raise bad_request(f"{HEADER_LENGTH} is {quote_value(header_length)}, and the body has {len(body)} bytes.")
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def _requested_outputs(data: Mapping[str, Any], binary: bool) -> Mapping[str, bool] | None:
    listed = data.get("outputs")
    if not listed:
        return None
    if type(listed) is not list or not all(type(each) is dict and type(each.get("name")) is str for each in listed):
        raise bad_request("The member `outputs` must be an array of objects with a `name`.")
    wanted = {}
    for each in listed:
        parameters = _parameters(each, f"The output {quote_value(each['name'])}")
        if parameters.get("classification"):
            raise bad_request("Classes of an output are not given here; leave out class_count.")
        wanted[each["name"]] = parameters.get("binary_data", binary) is True
    return wanted


def _tensor(described: Any, tail: memoryview, place: int) -> tuple[Tensor, int]:
    """Parse a tensor; also return the offset after its bytes."""
    if type(described) is not dict or type(described.get("name")) is not str:
        raise bad_request("Each of `inputs` must be an object with a `name`.")
    name, datatype, shape = described["name"], described.get("datatype"), described.get("shape")
    what = f"The input {quote_value(name)}"
    if type(datatype) is not str or (datatype != BYTES and datatype not in DTYPES):
        raise bad_request(f"{what} has the datatype {quote_value(datatype)}; there are {', '.join((*DTYPES, BYTES))}.")
    if type(shape) is not list or len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise bad_request(f"{what} has the shape {quote_value(shape)}; it is an array of whole numbers.")
    count, parameters = math.prod(shape), _parameters(described, what)
    if "shared_memory_region" in parameters:
        raise bad_request(f"{what} is in shared memory, which is not read here; send its data.")
    size = parameters.get("binary_data_size")
    if size is None:
        values = _values_from_json(what, datatype, count, described.get("data"))
        return Tensor(name, datatype, values, tuple(shape)), place
    if type(size) is not int or not 0 <= size <= len(tail) - place:
        raise bad_request(f"{what} has binary_data_size {quote_value(size)}, and {len(tail) - place} bytes are left.")
    content = tail[place : place + size]
    return Tensor(name, datatype, _values_from_bytes(what, datatype, count, content), tuple(shape)), place + size


def _values_from_bytes(what: str, datatype: str, count: int, content: memoryview) -> np.ndarray | list[str]:
    if datatype == BYTES:
        return _texts(what, count, bytes(content))
    dtype = DTYPES[datatype]
    if len(content) != count * dtype.itemsize:
        raise bad_request(f"{what} has {len(content)} bytes, and its shape and datatype need {count * dtype.itemsize}.")
    return np.frombuffer(content, dtype)


def _texts(what: str, count: int, content: bytes) -> list[str]:
    """Decode elements of BYTES: each is its length as four little-endian bytes, then UTF-8."""
    found, place = [], 0
    while place < len(content):
        begin = place + 4
        place = begin + int.from_bytes(content[place:begin], "little")
        if begin > len(content) or place > len(content):
            raise bad_request(f"{what} ends within an element; each has its length before it, in four bytes.")
        try:
            found.append(content[begin:place].decode())
        except UnicodeDecodeError:
            raise bad_request(f"{what} has an element at place {len(found)} that is not UTF-8.") from None
    if len(found) != count:
        raise bad_request(f"{what} has {len(found)} elements, and its shape needs {count}.")
    return found


def _values_from_json(what: str, datatype: str, count: int, data: Any) -> np.ndarray | list[str]:
    if type(data) is not list:
        raise bad_request(f"{what} has no array `data`, and no binary_data_size.")
    values: list[Any] = []
    _flatten(data, values, count)
    if len(values) != count:
        raise bad_request(f"{what} has {len(values)} elements or more, and its shape needs {count}.")
    taken = _TAKEN[datatype]
    for value in values:
        if type(value) not in taken:
            raise bad_request(f"{what} is {datatype}, and has {describe_type(value)} among its data.")
    if datatype == BYTES:
        return values
    try:
        with np.errstate(over="ignore"):
            return np.array(values, DTYPES[datatype])
    except OverflowError:
        raise bad_request(f"{what} has a number that {datatype} does not hold.") from None


def _flatten(data: list[Any], values: list[Any], most: int, depth: int = 1) -> None:
    for each in data:
        if len(values) > most:
            return
        if type(each) is list and depth < _MAX_DIMENSIONS:
            _flatten(each, values, most, depth + 1)
        else:
            values.append(each)


_TAKEN: Mapping[str, frozenset[type]] = {
    BYTES: frozenset({str}),
    **{
        name: frozenset({bool} if dtype.kind == "b" else {int, float} if dtype.kind == "f" else {int})
        for name, dtype in DTYPES.items()
    },
}


def _parameters(described: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = described.get("parameters") or {}
    if type(parameters) is not dict:
        raise bad_request(f"{what} has `parameters` that are {describe_type(parameters)}; they are an object.")
    return parameters


def render_response(head: Mapping[str, Any], outputs: Sequence[Tensor], binary: Sequence[bool]) -> tuple[bytes, int]:
    """Encode a response: the body, and the length of its JSON part; 0 if all of it is JSON, where NaN is null."""
    described, tail = [], []
    for tensor, as_bytes in zip(outputs, binary, strict=True):
        one: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape or (len(tensor.values),)
        }  # fmt: skip
        if as_bytes:
            content = _to_bytes(tensor)
            one["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            one["data"] = tensor.values
        described.append(one)
    text = orjson.dumps({**head, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *tail)), len(text)) if tail else (text, 0)


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, np.ndarray):
        return tensor.values.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    encoded = [text.encode() for text in tensor.values]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
