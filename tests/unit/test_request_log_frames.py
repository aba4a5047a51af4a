"""Frames of a segment: whatever is torn off or changed, none is read that was not written, and losses are counted."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecache.realtime.log.record import pack_answer, unpack_answer
from forecache.realtime.log.spool_stream import SegmentLosses, encode_frame, read_frames

CONTENTS = st.lists(st.binary(max_size=60), min_size=1, max_size=8)


def segment(contents: list[bytes], first: int = 5) -> bytes:
    return b"".join(encode_frame(content, first + place) for place, content in enumerate(contents))


def read(data: bytes, first: int | None = 5) -> tuple[dict[int, bytes], SegmentLosses]:
    losses = SegmentLosses()
    return {number: bytes(content) for number, content in read_frames(data, losses, first=first)}, losses


@given(CONTENTS)
def test_frames_are_read_as_they_were_written(contents: list[bytes]) -> None:
    found, losses = read(segment(contents))
    assert found == dict(enumerate(contents, 5))
    assert losses == SegmentLosses(0, False)


@given(CONTENTS, st.data())
def test_a_torn_tail_costs_the_frame_in_it_and_those_that_are_not_there(
    contents: list[bytes], data: st.DataObject
) -> None:
    whole = segment(contents)
    cut = data.draw(st.integers(0, len(whole) - 1))
    found, losses = read(whole[:cut])
    complete = sum(len(segment(contents[:count])) <= cut for count in range(1, len(contents) + 1))
    assert found == dict(enumerate(contents[:complete], 5))
    assert losses.rows == int(cut > len(segment(contents[:complete])))


@settings(max_examples=300)
@given(CONTENTS, st.data())
def test_a_changed_byte_costs_its_frame_alone(contents: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(segment(contents))
    at, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    whole[at] ^= change
    hit = next(place for place in range(len(contents)) if at < len(segment(contents[: place + 1])))
    found, losses = read(bytes(whole))
    assert found == {number: content for number, content in enumerate(contents, 5) if number != 5 + hit}
    assert losses.rows == 1


@given(st.binary(max_size=300))
def test_bytes_that_nobody_wrote_are_no_frames(data: bytes) -> None:
    assert read(data, None)[0] == {}


def test_a_frame_within_a_frame_is_not_read_twice() -> None:
    inner = encode_frame(b"inner", 6)
    found, losses = read(segment([b"a" + inner, b"b"]))
    assert found == {5: b"a" + inner, 6: b"b"}
    assert losses.rows == 0


FIXED = {
    "arrived_us": 1_700_000_000_000_000,
    "release": 3,
    "model_version": 7,
    "items": 2,
    "deadline_ms": 12.5,
    "times_us": (1, 2, 3, 4, 5, 6, 2**31 - 1),
    "late": True,
    "request_id": "ä".encode(),
    "key": b"7|a",
    "request": b'{"a":1}',
    "answered_by": b"order_given",
    "fallback_reason": b"deadline",
    "variant": b"current",
    "stores": b'[{"name":"product","version":1}]',
    "live": b'[{"lookup":"card","position":3}]',
    "warnings": b"",
    "item_answered_by": b'["model","order_given"]',
    "ranking": np.array([1, 0], "<i4").tobytes(),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_answer_comes_back_as_it_was_packed(dtype: str) -> None:
    features = np.array([[1.5, np.nan], [-0.0, np.inf]], np.float32)
    scores = np.array([0.1, -2.0], dtype)
    row = unpack_answer(memoryview(pack_answer(**FIXED, features=features, scores=scores)))
    assert bytes(row["features"]) == features.tobytes()
    assert bytes(row["scores"]) == scores.tobytes()
    assert row["score_dtype"] == dtype
    assert (row["request_id"], row["key"], row["late"], row["total_us"]) == ("ä", "7|a", True, 2**31 - 1)
    assert (row["item_answered_by"], row["ranking"], row["warnings"]) == (["model", "order_given"], [1, 0], [])
    assert row["stores"] == [{"name": "product", "version": 1}]
    assert row["live"] == [{"lookup": "card", "position": 3}]


def test_an_answer_without_features_and_scores_has_none() -> None:
    row = unpack_answer(memoryview(pack_answer(**FIXED, features=None, scores=None)))
    assert (row["features"], row["scores"], row["score_dtype"]) == (None, None, "")
    assert unpack_answer(memoryview(pack_answer(**FIXED, features=b"", scores=None)))["features"] == b""


def test_an_answer_with_bytes_too_few_or_too_many_is_none() -> None:
    content = pack_answer(**FIXED, features=None, scores=None)
    for wrong in (content[:-1], content + b"x", b""):
        with pytest.raises((ValueError, struct.error)):
            unpack_answer(memoryview(wrong))
