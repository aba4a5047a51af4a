"""Interactions from a table: codes, sums, days, and what is refused."""

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.base.errors import InputError
from forecache.plugins.recommend.interactions import Interactions

DAYS = [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 2), date(2024, 1, 3)]
TABLE = pa.table({"who": ["b", "a", "b", "b"], "what": [30, 10, 20, 30], "n": [1.5, 2.0, 1.0, 2.0], "day": DAYS})


def read(table: pa.Table, **columns: Any) -> Interactions:
    return Interactions.from_table(table, **{"user": "who", "item": "what", "weight": "n", "time": "day", **columns})


def changed(name: str, values: Any) -> pa.Table:
    return TABLE.set_column(
        TABLE.column_names.index(name), name, pa.array(values) if isinstance(values, list) else values
    )


def test_keys_get_codes_in_their_own_order_and_pairs_are_summed() -> None:
    found = read(TABLE)
    assert found.user_keys.to_pylist() == ["a", "b"]
    assert found.item_keys.to_pylist() == [10, 20, 30]
    assert (found.users.dtype, found.items.dtype, found.weights.dtype) == (np.int32, np.int32, np.float32)
    assert found.days.dtype == np.dtype("datetime64[D]")
    matrix = found.matrix()
    assert matrix.dtype == np.float32
    assert matrix.toarray().tolist() == [[2.0, 0.0, 0.0], [0.0, 1.0, 3.5]]
    assert found.last_day == date(2024, 1, 3)


def test_without_a_weight_each_row_counts_one() -> None:
    assert read(TABLE, weight=None).matrix().toarray().tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]


def test_days_cut_with_the_same_vocabularies() -> None:
    found = read(TABLE)
    assert len(found.select_before(date(2024, 1, 2))) == 1
    assert len(found.select_between(date(2024, 1, 2), date(2024, 1, 2))) == 2
    assert len(found.select_between(date(2024, 1, 2), date(2024, 1, 3))) == 3
    assert found.select_before(date(2024, 1, 2)).matrix().shape == (2, 3)
    assert not len(found.select_before(date(2024, 1, 1)))
    with pytest.raises(InputError, match="no interactions"):
        _ = found.select_before(date(2024, 1, 1)).last_day


def test_a_timestamp_is_of_its_day_in_utc_also_before_1970() -> None:
    from zoneinfo import ZoneInfo

    late = datetime(2024, 1, 1, 23, 30, tzinfo=timezone.utc)
    zoned = pa.array([late.astimezone(ZoneInfo("Asia/Tokyo"))] * 4, pa.timestamp("us", "Asia/Tokyo"))
    assert read(changed("day", zoned)).days.tolist() == [date(2024, 1, 1)] * 4
    old = pa.array([datetime(1969, 12, 31, 23)] * 4, pa.timestamp("ms"))
    assert read(changed("day", old)).days.tolist() == [date(1969, 12, 31)] * 4


def test_dictionaries_chunks_and_decimals_are_read_as_what_they_hold() -> None:
    table = changed("who", TABLE["who"].combine_chunks().dictionary_encode())
    table = table.set_column(2, "n", pa.array([Decimal("1.5"), Decimal(2), Decimal(1), Decimal(2)]))
    table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert read(table).matrix().toarray().tolist() == read(TABLE).matrix().toarray().tolist()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("who", ["b", None, "b", None], r"'who' of interactions is null in 2 of 4 rows, first in row 1"),
        ("what", [None, 1, 2, 3], "'what' of interactions is null in 1 of 4"),
        ("what", [1.5, 2.0, 3.0, 4.0], "'what' of interactions is double.*Keys are"),
        (
            "n",
            [1.0, float("nan"), 1.0, 1.0],
            "'n' of interactions is null or not a number in 1 of 4 rows, first in row 1",
        ),
        ("n", [1.0, None, 1.0, 1.0], "null or not a number"),
        ("n", [1.0, 1.0, float("inf"), 1.0], "infinite in 1 of 4 rows, first in row 2"),
        ("n", [1.0, 1.0, 1e39, 1.0], "infinite"),
        ("n", [1.0, 1.0, 1.0, -0.5], "negative in 1 of 4 rows, first in row 3"),
        ("n", ["1", "2", "3", "4"], "'n' of interactions is string.*Weights are numbers"),
        ("day", [1, 2, 3, 4], "'day' of interactions is int64.*dates or timestamps"),
        ("day", [None, *DAYS[1:]], "'day' of interactions is null in 1"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_row(name: str, values: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(changed(name, values))


def test_a_missing_column_and_an_empty_table_are_refused() -> None:
    with pytest.raises(InputError, match=r"no column 'price'\. They have 'who', 'what', 'n', 'day'"):
        read(TABLE, weight="price")
    with pytest.raises(InputError, match="There are no interactions"):
        read(TABLE.slice(0, 0))


def test_recoding_keeps_a_models_codes_drops_unknown_items_and_appends_unknown_users() -> None:
    model = read(TABLE.slice(1, 2))  # a: 10, b: 20
    newer = read(pa.table({"who": ["c", "b", "a"], "what": [20, 30, 10], "n": [1.0, 2.0, 3.0], "day": DAYS[:3]}))
    found = newer.recode(item_keys=model.item_keys, user_keys=model.user_keys)
    assert found.user_keys.to_pylist() == ["a", "b", "c"]
    assert found.item_keys.to_pylist() == [10, 20]
    assert found.matrix().toarray().tolist() == [[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    kept = newer.recode(item_keys=model.item_keys)
    assert kept.user_keys.to_pylist() == newer.user_keys.to_pylist()
    assert kept.matrix().toarray().tolist() == [[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]]


def test_recoding_to_keys_of_another_kind_is_refused() -> None:
    for keys in (pa.array(DAYS), pa.array(["10", "20"])):
        with pytest.raises(InputError, match="Keys of type int64 do not fit a model's of type"):
            read(TABLE).recode(item_keys=keys)


def test_keys_of_another_width_are_the_same_keys() -> None:
    found = read(TABLE).recode(item_keys=pa.array([30, 10], pa.int8()), user_keys=pa.array(["b"], pa.large_string()))
    assert found.user_keys.to_pylist() == ["b", "a"]
    assert found.matrix().toarray().tolist() == [[3.5, 0.0], [0.0, 2.0]]
    wide = read(changed("what", [2**40, 10, 20, 30])).recode(item_keys=pa.array([30, 10], pa.int8()))
    assert wide.matrix().sum() == 4.0


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_neither_codes_nor_sums(rows: list[tuple[int, int, int]], random: Any) -> None:
    def of(some: list[tuple[int, int, int]]) -> Interactions:
        who, what, n = zip(*some, strict=True)
        return read(pa.table({"who": who, "what": what, "n": n, "day": [DAYS[0]] * len(some)}))

    shuffled = random.sample(rows, len(rows))
    one, other = of(rows), of(shuffled)
    assert one.user_keys.equals(other.user_keys)
    assert one.item_keys.equals(other.item_keys)
    assert one.matrix().toarray().tolist() == other.matrix().toarray().tolist()
