"""Two partitions are compared as plain Python compares their rows, whatever their values, keys and files."""

import math
import random
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from store_services import minio_server

from forecache.base.errors import DamagedError, InputError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.base.statistics import psi
from forecache.kit.delta.tables import append_rows
from forecache.plugins.diff import compare_partitions as comparison
from forecache.plugins.diff import joined_changes
from forecache.plugins.diff.compare_partitions import PartitionDiff, compare_partitions
from forecache.plugins.diff.partition import Partition

DAY, OTHER_DAY = date(2026, 1, 1), date(2026, 1, 2)
KEY = ("shop", "customer")
TYPES = {
    "shop": pa.string(),
    "customer": pa.int64(),
    "score": pa.float64(),
    "small": pa.float32(),
    "count": pa.int32(),
    "city": pa.string(),
    "member": pa.bool_(),
    "vector": pa.list_(pa.float32()),
    "items": pa.list_(pa.struct([("item", pa.string()), ("score", pa.float32())])),
    "tags": pa.list_(pa.string()),
    "seen": pa.timestamp("us", tz="UTC"),
}
COLUMNS = [name for name in TYPES if name not in KEY]
NUMBERS = ("score", "small", "count")
NAN = float("nan")
Row = dict[str, Any]


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Settings, Settings]:
    return load_settings("", home=tmp_path / "a"), load_settings("", home=tmp_path / "b")


def write(settings: Settings, rows: list[Row], *, night: date = DAY, types: dict[str, Any] = TYPES) -> None:
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()})
    table = table.append_column("as_of", pa.array([night] * len(rows), pa.date32()))
    append_rows(settings, "t", table, partition_by=["as_of"])


def compare(sides: tuple[Settings, Settings], **more: Any) -> PartitionDiff:
    before, after = (Partition(settings, "t", DAY) for settings in sides)
    return compare_partitions(before, after, KEY, **more)


def random_row(rng: random.Random, shop: str, customer: int) -> Row:
    def sometimes(value: Any, *others: Any) -> Any:
        return rng.choice([value, value, value, *others])

    return {
        "shop": shop,
        "customer": customer,
        "score": sometimes(rng.choice([rng.gauss(0, 5), 1.5, -0.0, 0.0]), None, NAN, math.inf),
        "small": sometimes(float(np.float32(rng.random())), None, NAN),
        "count": sometimes(rng.randint(0, 5), None),
        "city": sometimes(rng.choice(["Bern", "Köln", "a'b", ""]), None),
        "member": sometimes(rng.random() < 0.5, None),
        "vector": sometimes([float(np.float32(rng.random())) for _ in range(3)], None, [1.0], [NAN, 1.0, 2.0]),
        "items": sometimes([{"item": f"i{n}", "score": 0.5} for n in rng.sample(range(9), 4)], None, []),
        "tags": sometimes([rng.choice("abc"), rng.choice("abc")], None, [None]),
        "seen": sometimes(None, 10**15 + rng.randint(0, 3)),
    }


def random_sides(seed: int) -> tuple[list[Row], list[Row]]:
    rng = random.Random(seed)
    keys = [(shop, customer) for shop in ("x", "y|z") for customer in range(150)]
    before = [random_row(rng, *key) for key in keys if rng.random() < 0.9]
    after = []
    for row in [*before, *(random_row(rng, "new", number) for number in range(20))]:
        if rng.random() < 0.1:
            continue
        fresh = random_row(rng, row["shop"], row["customer"])
        after.append({**row, **{name: fresh[name] for name in COLUMNS if rng.random() < 0.2}})
    rng.shuffle(after)
    return before, after


def canonical(value: Any) -> Any:
    """Equal for values that are equal as in GROUP BY."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, list):
        return tuple(map(canonical, value))
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


def is_unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def by_key(rows: list[Row]) -> dict[tuple[str, int], Row]:
    return {(row["shop"], row["customer"]): row for row in rows}


def differs(name: str, old: Row, new: Row) -> bool:
    return bool(canonical(old[name]) != canonical(new[name]))


def distance(name: str, old: Any, new: Any) -> float | None:
    if name == "vector":
        if old is None or new is None or len(old) != len(new):
            return None
        found = math.sqrt(sum((b - a) ** 2 for a, b in zip(old, new, strict=True)))
    elif old is None or new is None:
        return None
    else:
        found = abs(new - old)
    return None if math.isnan(found) else found


def check_rows(found: PartitionDiff, before: list[Row], after: list[Row], answers: tuple[str, ...]) -> None:
    ours, theirs = by_key(before), by_key(after)
    both = ours.keys() & theirs.keys()
    changed = [key for key in both if any(differs(name, ours[key], theirs[key]) for name in COLUMNS)]
    answered = [key for key in both if any(differs(name, ours[key], theirs[key]) for name in answers)]
    assert (found.rows_before, found.rows_after) == (len(before), len(after))
    assert (found.added, found.gone) == (len(theirs.keys() - ours.keys()), len(ours.keys() - theirs.keys()))
    assert (found.changed, found.unchanged) == (len(changed), len(both) - len(changed))
    assert found.answers_changed == len(answered)
    share = (found.added + found.gone + len(answered)) / len(ours.keys() | theirs.keys())
    assert found.changed_share == pytest.approx(share)


def check_columns(found: PartitionDiff, before: list[Row], after: list[Row], top: int) -> None:
    ours, theirs = by_key(before), by_key(after)
    both = sorted(ours.keys() & theirs.keys())
    assert [each.name for each in found.columns] == COLUMNS
    for column in found.columns:
        name = column.name
        pairs = [(ours[key][name], theirs[key][name]) for key in both]
        moved = [pair for key, pair in zip(both, pairs, strict=True) if differs(name, ours[key], theirs[key])]
        assert column.changed == len(moved), name
        of_numbers = name in NUMBERS
        unknown = [tuple(is_unknown(v) if of_numbers else v is None for v in pair) for pair in moved]
        assert column.became_unknown == unknown.count((False, True)), name
        assert column.became_known == unknown.count((True, False)), name
        for side, rows in ((column.before, before), (column.after, after)):
            assert side is not None
            values = [row[name] for row in rows]
            assert side.rows == len(rows)
            if of_numbers:
                check_numbers(name, side, [value for value in values if not is_unknown(value)])
                assert side.unknown == sum(map(is_unknown, values))
            elif name in ("city", "member"):
                texts = [str(value).lower() if name == "member" else value for value in values if value is not None]
                counts = Counter(texts)
                assert list(side.bars) == [*(counts[each] for each in column.bins.categories), 0]
        if not of_numbers:
            continue
        distances = {key: distance(name, *pair) for key, pair in zip(both, pairs, strict=True)}
        known = {key: value for key, value in distances.items() if value is not None}
        assert column.largest_change == pytest.approx(max(known.values()))
        changes = [theirs[key][name] - ours[key][name] for key in known]
        with np.errstate(invalid="ignore"):  # both infinities are among them
            assert column.mean_change == pytest.approx(np.mean(changes), nan_ok=True)
        largest = sorted(((-value, tuple(map(str, key))) for key, value in known.items() if value))[:top]
        assert [(-mover.distance, mover.key) for mover in column.movers] == largest, name
        for mover in column.movers:
            key = (mover.key[0], int(mover.key[1]))
            assert canonical(mover.before) == canonical(ours[key][name])
            assert canonical(mover.after) == canonical(theirs[key][name])
        finite = [(a, b) for a, b in pairs if not is_unknown(a) and not is_unknown(b)]
        assert column.rank_correlation == pytest.approx(rank_correlation(finite))
        check_psi(column, before, after)


def check_numbers(name: str, side: Any, known: list[float]) -> None:
    finite = [value for value in known if math.isfinite(value)]
    assert side.mean == pytest.approx(np.mean(finite)), name
    assert side.deviation == pytest.approx(np.std(finite, ddof=1)), name
    assert (side.minimum, side.maximum) == (min(known), max(known)), name
    for share, value in side.quantiles.items():
        assert value == pytest.approx(np.quantile(finite, share)), name
    assert sum(side.bars) == len(known), name


def check_psi(column: Any, before: list[Row], after: list[Row]) -> None:
    """The index of counts in the bins, a value equal to an edge above it, with the unknown values as the last bin."""
    counts = []
    for rows in (before, after):
        values = [row[column.name] for row in rows]
        known = [value for value in values if not is_unknown(value)]
        places = np.searchsorted(column.bins.judged, known, side="right")
        inner = np.bincount(places, minlength=len(column.bins.judged) + 1).tolist()
        counts.append([*inner, len(values) - len(known)])
    assert column.psi == pytest.approx(psi(*counts))


def rank_correlation(pairs: list[tuple[float, float]]) -> float:
    def ranks(values: list[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]

    return float(np.corrcoef(*(ranks([pair[side] for pair in pairs]) for side in (0, 1)))[0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_random_tables_differ_as_plain_python_says(sides: tuple[Settings, Settings], seed: int) -> None:
    before, after = random_sides(seed)
    for settings, rows in zip(sides, (before, after), strict=True):
        for some in (rows[:100], rows[100:]):  # several files
            write(settings, some)
        write(settings, [random_row(random.Random(seed), "x", 1)], night=OTHER_DAY)
    found = compare(sides, answers=("score", "city"), top=7)
    check_rows(found, before, after, ("score", "city"))
    check_columns(found, before, after, 7)


@pytest.mark.slow
def test_tables_in_a_bucket_differ_as_those_in_a_folder(tmp_path: Path) -> None:
    before, after = random_sides(0)
    with minio_server(tmp_path / "minio", "cloud") as options:
        ours, theirs = (
            load_settings("", home=tmp_path / name, lake=f"s3://cloud/{name}", storage_options=options) for name in "ab"
        )
        for settings, rows in ((ours, before), (theirs, after)):
            write(settings, rows[:100])
            write(settings, rows[100:])
            write(settings, rows[:10], night=OTHER_DAY)
        found = compare((ours, theirs), answers=("score", "items"), top=4)
        check_rows(found, before, after, ("score", "items"))
        check_columns(found, before, after, 4)
        assert compare((ours, ours)).is_same_files
        folder = load_settings("", home=tmp_path / "folder")
        write(folder, before)
        beside = compare((folder, ours))
        assert (beside.is_same_files, beside.differs, beside.unchanged) == (False, False, len(before))


def test_many_columns_are_joined_in_parts_with_the_same_result(
    sides: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = random_sides(9)
    for settings, rows in zip(sides, (before, after), strict=True):
        write(settings, rows)
    monkeypatch.setattr(joined_changes, "COLUMNS_AT_ONCE", 2)
    found = compare(sides, answers=("score", "items"))
    check_rows(found, before, after, ("score", "items"))
    check_columns(found, before, after, 5)


def test_many_rows_are_counted_whole_and_ranked_on_the_same_sample_in_every_run(
    sides: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    before = [{"shop": "x", "customer": number, "score": float(rng.normal())} for number in range(20_000)]
    after = [{**row, "score": row["score"] + float(rng.normal()) / 2} for row in before[1_000:]]
    for settings, rows in zip(sides, (before, after), strict=True):
        write(settings, rows)
    monkeypatch.setattr(comparison, "SAMPLED_KEYS", 2_000)
    found = compare(sides)
    assert found == compare(sides)
    assert (found.changed, found.gone, found.added) == (19_000, 1_000, 0)
    assert 1_600 < found.sampled < 2_400
    score = found.columns[0]
    assert score.before is not None
    assert sum(score.before.bars) == 20_000
    assert score.before.mean == pytest.approx(np.mean([row["score"] for row in before]))
    assert score.before.quantiles[0.5] == pytest.approx(np.median([row["score"] for row in before]), abs=0.1)
    pairs = [(old["score"], new["score"]) for old, new in zip(before[1_000:], after, strict=True)]
    assert score.rank_correlation == pytest.approx(np.corrcoef(*zip(*pairs, strict=True))[0, 1], abs=0.03)


def test_vectors_lists_and_texts(sides: tuple[Settings, Settings]) -> None:
    def row(customer: int, **values: Any) -> Row:
        return {"shop": "x", "customer": customer, **values}

    def items(text: str) -> list[Row]:
        return [{"item": letter, "score": 1.0} for letter in text]

    write(sides[0], [
        row(1, vector=[0.0, 0.0], items=items("abcd"), city="Bern", member=True),
        row(2, vector=[3.0, 4.0], items=items("abcd"), city="Bern", member=True),
        row(3, vector=[1.0], items=items("ab"), city=None, member=False),
    ])  # fmt: skip
    write(sides[1], [
        row(1, vector=[3.0, 4.0], items=items("dcba"), city="Köln", member=False),
        row(2, vector=[3.0, 4.0], items=items("abxy"), city="Köln", member=True),
        row(3, vector=[1.0, 2.0], items=None, city="Bern", member=False),
    ])  # fmt: skip
    found = {column.name: column for column in compare(sides).columns}
    vector = found["vector"]
    assert (vector.changed, vector.largest_change, vector.mean_absolute_change) == (2, 5.0, 2.5)
    assert [(each.key, each.before, each.after) for each in vector.movers] == [(("x", "1"), [0.0, 0.0], [3.0, 4.0])]
    assert vector.before is not None
    assert (vector.before.minimum, vector.before.maximum) == (0.0, 5.0)
    lists = found["items"]
    assert lists.overlap == pytest.approx((1 + 2 / 6 + 0) / 3)
    assert lists.rank_correlation == pytest.approx((-1 + 1) / 2)
    assert found["city"].transitions == (("Bern", "Köln", 2), ("None", "Bern", 1))
    assert found["member"].transitions == (("true", "false", 1),)


def test_equal_files_are_not_read_and_shared_ones_not_joined(tmp_path: Path) -> None:
    before = load_settings("", home=tmp_path / "a")
    rows = [{"shop": "x", "customer": number, "score": float(number)} for number in range(10)]
    write(before, rows[:5])
    write(before, rows[5:])
    after = load_settings("", home=tmp_path / "b")
    link(before, after)
    for path in Path(before.lake_uri).rglob("*.parquet"):
        assert path.stat().st_nlink == 2
    found = compare((before, after))
    assert found.is_same_files
    assert not found.differs
    write(after, [{"shop": "x", "customer": 11, "score": 5.0}])
    found = compare((before, after))
    assert not found.is_same_files
    assert (found.added, found.gone, found.changed, found.unchanged) == (1, 0, 0, 10)
    score = found.columns[0]
    assert score.after is not None
    assert score.after.mean == pytest.approx((45 + 5) / 11)


def test_unknown_values_of_shared_files_have_no_distance(tmp_path: Path) -> None:
    before, after = (load_settings("", home=tmp_path / side) for side in "ab")
    unknown = (None, float("nan"))
    write(before, [{"shop": "x", "customer": n, "score": unknown[n % 2]} for n in range(9)] + [
        {"shop": "x", "customer": 9, "score": 2.0}])  # fmt: skip
    link(before, after)
    write(before, [{"shop": "x", "customer": 10, "score": 1.0}])
    write(after, [{"shop": "x", "customer": 10, "score": 2.0}])
    score = compare((before, after)).columns[0]
    assert (score.changed, score.mean_change, score.mean_absolute_change) == (1, 0.5, 0.5)


def link(before: Settings, after: Settings) -> None:
    """Fork a table: the log is copied, and data files are links."""
    source, target = (Path(settings.lake_uri) / "t" for settings in (before, after))
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            place.hardlink_to(path)
        elif path.is_file():
            place.write_bytes(path.read_bytes())


def test_columns_of_one_side_and_of_another_type(sides: tuple[Settings, Settings]) -> None:
    types = {"shop": pa.string(), "customer": pa.int32(), "score": pa.float32(), "old": pa.int32()}
    write(sides[0], [{"shop": "x", "customer": 1, "score": 0.5, "old": 1},
                     {"shop": "x", "customer": 2, "score": 0.1, "old": 1}], types=types)  # fmt: skip
    types = {"shop": pa.string(), "customer": pa.int64(), "score": pa.float64(), "new": pa.string()}
    write(sides[1], [{"shop": "x", "customer": 1, "score": 0.5, "new": "a"},
                     {"shop": "x", "customer": 2, "score": 0.1, "new": "b"}], types=types)  # fmt: skip
    found = compare(sides)
    columns = {column.name: column for column in found.columns}
    assert (found.added, found.gone, found.changed) == (0, 0, 1)  # 0.1 is another number as a float
    assert (columns["score"].type_before, columns["score"].type_after) == ("float", "double")
    assert columns["score"].rank_correlation == pytest.approx(1)
    assert (columns["old"].changed, columns["old"].type_after, columns["old"].after) == (None, "", None)
    assert (columns["new"].changed, columns["new"].type_before, columns["new"].before) == (None, "", None)
    assert found.differs


def test_a_side_without_rows(sides: tuple[Settings, Settings]) -> None:
    write(sides[1], [{"shop": "x", "customer": 1, "score": 0.5}, {"shop": "x", "customer": 2, "score": NAN}])
    found = compare(sides)
    assert (found.added, found.gone, found.changed, found.changed_share) == (2, 0, 0, 1.0)
    back = compare((sides[1], sides[0]))
    assert (back.added, back.gone, back.changed_share) == (0, 2, 1.0)


def test_a_missing_key_column_is_one_clear_error(sides: tuple[Settings, Settings]) -> None:
    write(sides[0], [{"customer": 1, "score": 0.5}], types={"customer": pa.int64(), "score": pa.float64()})
    write(sides[1], [{"shop": "x", "customer": 1, "score": 0.5}])
    with pytest.raises(InputError, match="has no column 'shop', which is part of the key"):
        compare(sides)


def test_a_file_that_maintenance_has_removed_or_that_is_lost_is_one_clear_error(
    sides: tuple[Settings, Settings],
) -> None:
    for settings in sides:
        write(settings, [{"shop": "x", "customer": 1, "score": 0.5}])
    [file] = Path(sides[0].table_uri("t")).rglob("*.parquet")
    file.unlink()
    with pytest.raises(NotFoundError, match="The table 't' of local lacks the file .*parquet of version 0"):
        compare_partitions(*(Partition(settings, "t", DAY, 0) for settings in sides), KEY)
    with pytest.raises(DamagedError, match="parquet of the table 't' is missing or damaged"):
        compare(sides)


def test_a_key_of_two_kinds_is_one_clear_error(sides: tuple[Settings, Settings]) -> None:
    row = {"shop": "x", "customer": "1", "score": 0.5}
    write(sides[0], [row], types={**TYPES, "customer": pa.string()})
    write(sides[1], [{**row, "customer": 1}])
    with pytest.raises(InputError, match="The key 'customer' of t is a text before and a number after"):
        compare(sides)


def test_all_answers_change_if_one_of_their_columns_is_on_one_side_only(sides: tuple[Settings, Settings]) -> None:
    rows = [{"shop": "x", "customer": number, "score": 0.5, "small": 0.5} for number in range(4)]
    write(sides[0], rows[:3], types={name: kind for name, kind in TYPES.items() if name != "small"})
    write(sides[1], rows[1:])
    found = compare(sides, answers=("score", "small"))
    assert (found.added, found.gone, found.changed, found.answers_changed) == (1, 1, 0, 2)
    assert found.changed_share == 1.0
    assert compare(sides, answers=("score",)).changed_share == 0.5


def test_an_answer_that_neither_side_has_yet_changes_none(sides: tuple[Settings, Settings]) -> None:
    rows = [{"shop": "x", "customer": number, "score": 0.5} for number in range(4)]
    write(sides[0], rows)
    write(sides[1], [{**rows[0], "score": 0.75}, *rows[1:]])
    assert compare(sides, answers=("score", "declared_since")).answers_changed == 1
