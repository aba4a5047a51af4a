"""Tensors of the Open Inference Protocol: equal to the bit, as bytes and in JSON."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.kit.http.problems import Problem
from forecache.plugins.protocols.open_inference_messages import BYTES, DTYPES, Tensor, parse_request, render_response

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == BYTES:
        return TEXTS
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        return st.floats(width=8 * dtype.itemsize)
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from([*DTYPES, BYTES]))
    listed = draw(st.lists(values_of(datatype), max_size=5))
    values = listed if datatype == BYTES else np.array(listed, DTYPES[datatype])
    return Tensor(draw(TEXTS), datatype, values, (len(listed),))


def bits(tensor: Tensor) -> object:
    values = tensor.values
    return values if isinstance(values, list) else (values.dtype, values.tobytes())


def asked(found: list[Tensor], binary: list[bool]) -> tuple[bytes, str | None]:
    """A request with these inputs; an answer's tensors are written as a request's are."""
    body, length = render_response({}, found, binary)
    text = body[: length or None].replace(b'{"outputs":', b'{"inputs":', 1)
    shorter = length - len(text) if length else 0
    return text + (body[length:] if length else b""), str(length - shorter) if length else None


@given(st.lists(tensors(), max_size=4, unique_by=lambda each: each.name))
def test_bytes_carry_every_value(sent: list[Tensor]) -> None:
    found = parse_request(*asked(sent, [True] * len(sent)))
    assert [(each.name, each.datatype, bits(each)) for each in found.inputs] == [
        (each.name, each.datatype, bits(each)) for each in sent
    ]


@given(st.lists(tensors(), max_size=4, unique_by=lambda each: each.name), st.data())
def test_json_carries_every_finite_value_beside_bytes(sent: list[Tensor], data: st.DataObject) -> None:
    finite = [each.datatype == BYTES or bool(np.isfinite(each.values).all()) for each in sent]
    # A float32 in JSON has the digits that tell it apart; those of a float16 are a float64's.
    binary = [not is_finite or data.draw(st.booleans()) for is_finite in finite]
    found = parse_request(*asked(sent, binary))
    assert [bits(each) for each in found.inputs] == [bits(each) for each in sent]


def test_a_number_that_is_not_finite_is_null_in_json_and_itself_in_bytes() -> None:
    scores = Tensor("score", "FP64", np.array([np.nan, -0.0]))
    body, length = render_response({"model_name": "m"}, [scores], [False])
    assert (length, orjson.loads(body)["outputs"][0]["data"]) == (0, [None, -0.0])
    body, length = render_response({}, [scores], [True])
    assert body[length:] == np.array([np.nan, -0.0]).tobytes()


@pytest.mark.parametrize(
    ("content", "shape", "message"),
    [
        (b"\x01\x00\x00", [1], "ends within an element"),
        (b"\x05\x00\x00\x00ab", [1], "ends within an element"),
        (b"\xff\xff\xff\xff", [1], "ends within an element"),
        (b"\x01\x00\x00\x00\xff", [1], "not UTF-8"),
        (b"\x00\x00\x00\x00", [2], "has 1 elements, and its shape needs 2"),
    ],
)
def test_malformed_texts_are_refused(content: bytes, shape: list[int], message: str) -> None:
    described = {"name": "t", "datatype": BYTES, "shape": shape, "parameters": {"binary_data_size": len(content)}}
    text = json.dumps({"inputs": [described]}).encode()
    with pytest.raises(Problem, match=message):
        parse_request(text + content, str(len(text)))


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 200)))
def test_whatever_comes_is_a_request_or_a_problem(body: bytes, length: int | None) -> None:
    for text in (body, b'{"inputs":[' + body + b"]}"):
        with suppress(Problem):
            parse_request(text, None if length is None else str(length))
