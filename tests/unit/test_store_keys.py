"""Keys: text, bytes and values lead to each other, and what cannot be a key is refused in words."""

import re
from datetime import date
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecache.base.errors import InputError
from forecache.serve.store import KeyColumn, KeySchema, decode_key, encode_key, parse_key
from forecache.serve.store.keys import encode_columns

SINGLE = KeySchema((KeyColumn("customer_id", "string"),))
NUMBER = KeySchema((KeyColumn("account", "int"),))
IDENTITY = KeySchema((KeyColumn("device", "uuid"),))
PAIR = KeySchema((KeyColumn("country", "string"), KeyColumn("account", "int")))
TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())


@settings(deadline=None)
@given(TEXTS)
def test_a_string_key_is_its_own_text(text: str) -> None:
    assert parse_key(SINGLE, text) == encode_key(SINGLE, text) == text.encode()
    assert decode_key(SINGLE, text.encode()) == (text,)


@settings(deadline=None)
@given(TEXTS, st.integers(-(2**63), 2**63 - 1))
def test_a_composite_key_comes_back_from_its_text_whatever_its_parts_hold(country: str, account: int) -> None:
    key = encode_key(PAIR, (country, account))
    assert decode_key(PAIR, key) == (country, account)
    assert parse_key(PAIR, key.decode()) == key
    assert encode_key(PAIR, {"account": account, "country": country}) == key


@settings(deadline=None)
@given(st.tuples(TEXTS, st.integers()), st.tuples(TEXTS, st.integers()))
def test_different_composite_keys_have_different_bytes(left: tuple[str, int], right: tuple[str, int]) -> None:
    if abs(left[1]) < 10**30 and abs(right[1]) < 10**30:
        assert (encode_key(PAIR, left) == encode_key(PAIR, right)) == (left == right)


def test_integers_and_uuids_have_one_form() -> None:
    assert parse_key(NUMBER, "007") == encode_key(NUMBER, 7) == b"7"
    text = "3F2504E0-4F89-11D3-9A0C-0305E82C3301"
    assert parse_key(IDENTITY, text) == encode_key(IDENTITY, UUID(text)) == text.lower().encode()
    assert encode_key(KeySchema((KeyColumn("day", "date"),)), date(1998, 6, 30)) == b"1998-06-30"


@pytest.mark.parametrize(
    ("schema", "text", "words"),
    [
        (NUMBER, "12x", "account"),
        (NUMBER, "", "account"),
        (IDENTITY, "not-a-uuid", "device"),
        (PAIR, "NL", "1 part where"),
        (PAIR, "NL|1|2", "3 parts"),
        (SINGLE, "", "0 bytes"),
        (SINGLE, "x" * 512, "512 bytes"),
        (SINGLE, "\ud800", "Unicode"),
    ],
)
def test_text_that_is_no_key_is_refused_with_what_is_wrong(schema: KeySchema, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_key(schema, text)


def test_a_key_with_a_null_or_missing_part_is_refused() -> None:
    with pytest.raises(InputError, match="'country' is null"):
        encode_key(PAIR, (None, 1))
    with pytest.raises(InputError, match="lacks 'account'"):
        encode_key(PAIR, {"country": "NL"})
    with pytest.raises(InputError, match="1 value where"):
        encode_key(PAIR, "NL")


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.sampled_from(
    ["%", "|", "a|%7C"]
)
WHOLE = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, WHOLE), max_size=20))
def test_keys_of_columns_are_those_of_each_row(rows: list[tuple[str, int]]) -> None:
    countries, accounts = [row[0] for row in rows], [row[1] for row in rows]
    expected = [encode_key(PAIR, row) for row in rows]
    whole = np.array(accounts, np.int64)
    assert encode_columns(PAIR, [countries, accounts]) == expected
    assert encode_columns(PAIR, [np.array(countries, object), whole]) == expected
    assert encode_columns(NUMBER, [whole[::-1]]) == [encode_key(NUMBER, number) for number in accounts[::-1]]
    assert encode_columns(NUMBER, [accounts]) == [encode_key(NUMBER, number) for number in accounts]
    assert encode_columns(NUMBER, [np.array(accounts, object)]) == [encode_key(NUMBER, number) for number in accounts]
    assert encode_columns(SINGLE, [np.array(countries, object)]) == [encode_key(SINGLE, text) for text in countries]


def test_keys_of_columns_take_small_integers_dates_and_uuids() -> None:
    days = KeySchema((KeyColumn("day", "date"),))
    assert encode_columns(days, [np.array(["1998-06-30"], "datetime64[D]")]) == [b"1998-06-30"]
    assert encode_columns(days, [[date(1998, 6, 30)]]) == [b"1998-06-30"]
    assert encode_columns(NUMBER, [np.array([3, 255], np.uint8)]) == [b"3", b"255"]
    assert encode_columns(NUMBER, [np.array([1, -5], ">i8")]) == [b"1", b"-5"]
    device = UUID("3F2504E0-4F89-11D3-9A0C-0305E82C3301")
    assert encode_columns(IDENTITY, [np.array([device, str(device).upper()], object)]) == [str(device).encode()] * 2


@pytest.mark.parametrize(
    ("schema", "columns", "words"),
    [
        (SINGLE, [["a", ""]], "0 bytes"),
        (SINGLE, [["a", "x" * 512]], "512 bytes"),
        (SINGLE, [["a", "\ud800"]], "Unicode"),
        (SINGLE, [["a", None]], "'customer_id' is null"),
        (NUMBER, [np.array([1.0])], "'1.0'"),
        (NUMBER, [np.array([True])], "'True'"),
        (PAIR, [["NL"], ["x"]], "account"),
    ],
)
def test_a_column_with_what_is_no_key_is_refused_as_the_key_is(schema: KeySchema, columns: list, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        encode_columns(schema, columns)
