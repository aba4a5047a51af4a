"""Nights merged from tiles are those of all rows: on random tiles, in any order and any batches, to the bit."""

import math
import random
import struct
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from forecache.plugins.window_features.key_hashes import KeyHashesByNight, hash_requested_keys, key_hashes
from forecache.plugins.window_features.tile_merge import TileMerger, WindowFeature, to_double

START = date(2026, 1, 1)
FEATURES = (
    WindowFeature("n", "count", 3, ("n_state",)),
    WindowFeature("total", "sum", 3, ("whole", "part")),
    WindowFeature("total_long", "sum", 9, ("whole", "part")),
    WindowFeature("mean", "mean", 2, ("whole", "part", "n_state")),
    WindowFeature("least", "min", 3, ("least_state",)),
    WindowFeature("most", "max", 4, ("most_state",)),
    WindowFeature("last", "last", 5, ("at", "last_state")),
    WindowFeature("kinds", "distinct", 4, ("kinds_state",)),
)
Row = tuple[str, int, float | None, int]  # key, day, value, kind

row = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 12),
    st.none() | st.floats(-1e9, 1e9, allow_nan=False) | st.sampled_from([0.1, -0.0, 1e-12]),
    st.integers(1, 4),
)


def fixed(value: float) -> tuple[int, int]:
    return math.floor(value), round((value - math.floor(value)) * 2**32)


def total(values: list[float]) -> float:
    parts = [fixed(value) for value in values]
    whole, part = sum(p[0] for p in parts), sum(p[1] for p in parts)
    return float(whole + (part >> 32)) + float(part & (2**32 - 1)) * 2.0**-32


def tiles_of(rows: list[Row]) -> list[dict[str, Any]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for each in rows:
        found.setdefault(each[:2], []).append(each)
    tiles = []
    for (key, day), some in found.items():
        values = [value + 0.0 for _, _, value, _ in some if value is not None]
        parts = [fixed(value) for value in values]
        tiles.append(
            {
                "key": key,
                "day": START + timedelta(days=day),
                "n_state": len(values),
                "whole": sum(p[0] for p in parts),
                "part": sum(p[1] for p in parts),
                "least_state": min(values, default=None),
                "most_state": max(values, default=None),
                "at": day if values else None,
                "last_state": max(values, default=None),
                "kinds_state": sorted({kind for *_, kind in some}),
            }
        )
    return tiles


def expected(rows: list[Row], night: int, days_active: int | None) -> dict[str, list[float | None]]:
    found = {}
    for key in {each[0] for each in rows}:
        own = [each for each in rows if each[0] == key and each[1] <= night]
        if not any(days_active is None or night - each[1] < days_active for each in own):
            continue

        def values(days: int, own: list[Row] = own) -> list[tuple[int, float]]:
            return [(day, value + 0.0) for _, day, value, _ in own if night - day < days and value is not None]

        two, last = [value for _, value in values(2)], max(values(5), default=None)
        found[key] = [
            float(len(values(3))),
            total([value for _, value in values(3)]),
            total([value for _, value in values(9)]),
            total(two) / len(two) if two else None,
            min((value for _, value in values(3)), default=None),
            max((value for _, value in values(4)), default=None),
            None if last is None else last[1],
            float(len({kind for _, day, _, kind in own if night - day < 4})),
        ]
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(row, min_size=1, max_size=40), st.sampled_from([1, 3, 9, None]), st.randoms(use_true_random=False))
def test_nights_are_those_of_all_rows(rows: list[Row], days_active: int | None, rng: random.Random) -> None:
    tiles = tiles_of(rows)
    rng.shuffle(tiles)
    table = pa.Table.from_pylist(tiles, schema=schema())
    nights = (0, 3, 4, 12, 15)
    merge = TileMerger(("key",), FEATURES, tuple(START + timedelta(days=night) for night in nights), days_active)
    got: dict[int, dict[str, list[float | None]]] = {night: {} for night in nights}
    for batch in merge(table.to_batches(max_chunksize=rng.randint(1, 20))):
        for each in batch.to_pylist():
            got[(each["as_of"] - START).days][each["key"]] = [each[feature.name] for feature in FEATURES]
    for night in nights:
        wanted = expected(rows, night, days_active)
        assert {key: bits(values) for key, values in got[night].items()} == {k: bits(v) for k, v in wanted.items()}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(row, min_size=1, max_size=40),
    st.sampled_from([3, None]),
    st.sets(st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from([0, 3, 12, 30]))),
)
def test_nights_that_are_asked_for_some_keys_have_those_of_all_and_no_others(
    rows: list[Row], days_active: int | None, pairs: set[tuple[str, int]]
) -> None:
    table = pa.Table.from_pylist(tiles_of(rows), schema=schema())
    nights = tuple(START + timedelta(days=night) for night in (0, 3, 12))
    every = TileMerger(("key",), FEATURES, nights, days_active)
    columns = {"key": [key for key, _ in pairs], "as_of": [START + timedelta(days=night) for _, night in pairs]}
    asked = hash_requested_keys(
        pa.table(columns, schema=pa.schema([("key", pa.string()), ("as_of", pa.date32())])), ["key"], schema()
    )
    assert asked is not None
    some = TileMerger(("key",), FEATURES, nights, days_active, asked)
    wanted = [each for each in _rows(every, table) if (each["key"], (each["as_of"] - START).days) in pairs]
    assert repr(_rows(some, table)) == repr(wanted)
    ever = table.filter(pa.array(asked.is_ever_requested(key_hashes(table, ["key"])))) if pairs else table.slice(0, 0)
    assert repr(_rows(some, ever)) == repr(wanted)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(row, min_size=1, max_size=40),
    st.sampled_from([1, 3, 9, None]),
    st.randoms(use_true_random=False),
    st.none() | st.sets(st.tuples(st.sampled_from(["a", "b", "d"]), st.sampled_from([0, 4, 12]))),
)
def test_a_night_alone_has_the_bits_that_it_has_among_others(
    rows: list[Row], days_active: int | None, rng: random.Random, pairs: set[tuple[str, int]] | None
) -> None:
    tiles = tiles_of(rows)
    rng.shuffle(tiles)
    table = pa.Table.from_pylist(tiles, schema=schema())
    delayed = WindowFeature("delayed", "max", 2, ("most_state",), delay_days=3)
    features = (*(each for each in FEATURES if each.aggregate != "distinct"), delayed)
    nights, asked = tuple(START + timedelta(days=night) for night in (0, 3, 4, 12, 15)), None
    if pairs is not None:
        columns = {"key": [key for key, _ in pairs], "as_of": [START + timedelta(days=night) for _, night in pairs]}
        spine = pa.table(columns, schema=pa.schema([("key", pa.string()), ("as_of", pa.date32())]))
        asked = hash_requested_keys(spine, ["key"], schema())
    together = _rows(TileMerger(("key",), features, nights, days_active, asked), table)
    alone = [_rows(TileMerger(("key",), features, (night,), days_active, asked), table) for night in nights]
    assert repr([each for some in alone for each in some]) == repr(together)


def _rows(merge: TileMerger, table: pa.Table) -> list[dict[str, Any]]:
    found = [each for batch in merge(table.to_batches()) for each in batch.to_pylist()]
    return sorted(found, key=lambda each: (each["as_of"], each["key"]))


def test_numbers_too_large_for_a_key_ask_for_nothing_and_other_types_for_all() -> None:
    types = pa.schema([("shop", pa.int32())])

    def asks(*shops: Any) -> KeyHashesByNight | None:
        return hash_requested_keys(
            pa.table({"shop": shops, "as_of": pa.array([START] * len(shops), pa.date32())}), ["shop"], types
        )

    assert (wide := asks(2**31, 7, -(2**31) - 1, -(2**31)))
    assert (same := asks(7, -(2**31)))
    assert wide.nights[START].tolist() == same.nights[START].tolist()
    assert len(same.nights[START]) == 2
    assert (none := asks(2**40))
    assert none.nights == {}
    assert asks("north") is None


def test_sums_whose_running_total_overflows_are_exact() -> None:
    large = 2**62
    tiles = [
        {"key": "a", "day": START + timedelta(days=day), "n_state": 1, "whole": large, "part": day, "kinds_state": []}
        for day in range(8)
    ]
    merge = TileMerger(
        ("key",), (WindowFeature("total", "sum", 1, ("whole", "part")),), (START + timedelta(days=7),), None
    )
    (batch,) = merge(pa.Table.from_pylist(tiles, schema=schema()).to_batches())
    assert batch["total"].to_pylist() == [float(large) + 7 * 2.0**-32]


def test_negative_parts_and_carries_make_one_double() -> None:
    whole, part = np.array([-1, 5, 0]), np.array([3 << 31, 0, (1 << 40) + 1])
    assert to_double(whole, part).tolist() == [0.5, 5.0, 256.0 + 2.0**-32]


def bits(values: list[float | None]) -> list[bytes | None]:
    return [None if value is None else struct.pack("d", value) for value in values]


def schema() -> pa.Schema:
    numbers = {name: pa.int64() for name in ("n_state", "whole", "part", "at")}
    numbers |= {name: pa.float64() for name in ("least_state", "most_state", "last_state")}
    return pa.schema({"key": pa.string(), "day": pa.date32(), **numbers, "kinds_state": pa.list_(pa.int64())})
