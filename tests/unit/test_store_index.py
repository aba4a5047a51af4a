"""The index of a base: it leads to every entry, or leaves the key to LMDB; never to another key's entry."""

from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecache.base.errors import UnavailableError
from forecache.serve.store.segment import index
from forecache.serve.store.segment.index import key_hashes, leaf_records
from forecache.serve.store.segment.mapping import SegmentHandle
from forecache.serve.store.segment.writer import write_shard


def write(path: Path, rows: dict[bytes, bytes]) -> None:
    write_shard(path, pa.array(list(rows), pa.binary()), pa.array(list(rows.values()), pa.binary()), indexed=True)


def found(path: Path, keys: list[bytes]) -> dict[bytes, bytes | None]:
    """What the index says of the keys that it leads to."""
    handle = SegmentHandle(path.parent, [path.name], indexed=True)
    try:
        assert handle.index is not None
        entries, elsewhere = handle.index.find(keys, key_hashes(keys))
        return {
            key: entry for place, (key, entry) in enumerate(zip(keys, entries, strict=True)) if place not in elsewhere
        }
    finally:
        handle.close()


@settings(max_examples=30, deadline=None)
@given(rows=st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=300), min_size=1, max_size=400))
def test_it_leads_to_entries_of_any_length_and_to_no_other_keys(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[bytes, bytes]
) -> None:
    path = tmp_path_factory.mktemp("index") / "000.mdb"
    write(path, rows)
    said = found(path, list(rows))
    assert said == {key: rows[key] for key in said}
    # A key whose place in the index is taken has none there: of few keys that may be one or two.
    assert len(said) >= 0.9 * len(rows) - 2
    strangers = [key + rows[key][:1] for key in rows]  # what begins as a key and its entry do is another key
    assert found(path, strangers).items() <= rows.items()


def test_keys_of_one_length_are_told_apart(tmp_path: Path) -> None:
    rows = {b"%06d" % number: b"entry %d" % number for number in range(0, 20_000, 2)}
    write(tmp_path / "000.mdb", rows)
    said = found(tmp_path / "000.mdb", [b"%06d" % number for number in range(20_000)])
    assert said == {key: rows[key] for key in said}
    assert len(said) > 0.99 * len(rows)


@pytest.mark.parametrize("bits", [0, 1, 16])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_packed_entries_are_those_of_their_keys_however_many_slots_look_like_a_key(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, bits: int, data: st.DataObject
) -> None:
    """With few bits of the hash in a slot, a bucket has none, one or several that a key may be in."""
    monkeypatch.setattr(index, "_tags", lambda hashes: (hashes & np.uint64((1 << bits) - 1)).astype("<u2"))
    drawn = st.integers(0, 120).map(b"%d".__mod__) | st.sampled_from([b"k", b"k\0", b"\0k", b"k" * 300])
    rows = data.draw(st.dictionaries(drawn, st.binary(min_size=4, max_size=4), min_size=1, max_size=60))
    asked = data.draw(st.lists(drawn, min_size=1, max_size=60))
    path = tmp_path_factory.mktemp("index") / "000.mdb"
    write(path, rows)
    handle = SegmentHandle(path.parent, [path.name], indexed=True)
    try:
        assert handle.index is not None
        entries, elsewhere, absent = handle.index.find_packed(asked, key_hashes(asked), 4)
        for place in set(range(len(asked))) - {*elsewhere.tolist(), *absent.tolist()}:
            assert entries[place].tobytes() == rows[asked[place]]
        assert not rows.keys() & {asked[place] for place in absent}
        assert not set(elsewhere.tolist()) & set(absent.tolist())
        if bits == 16:  # nothing but chance leads to LMDB: a full bucket
            assert len(elsewhere) <= 0.2 * len(asked) + 3
    finally:
        handle.close()


def test_what_has_no_place_is_left_to_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_ROWS_PER_BUCKET", 100.0)
    rows = {b"%04d" % number: b"%d" % number for number in range(1000)}
    rows |= {b"long": b"x" * 5000, b"longer": b"x" * 100_000}
    write(tmp_path / "000.mdb", rows)
    said = found(tmp_path / "000.mdb", list(rows))
    assert len(said) == 10 * 8
    assert said == {key: rows[key] for key in said}


def test_entries_lie_where_the_walk_over_the_pages_says(tmp_path: Path) -> None:
    rows = {b"%06d" % number: b"x" * (number % 3000) for number in range(5000)}
    path = tmp_path / "000.mdb"
    write(path, rows)
    offsets, lengths = leaf_records(path)
    content = path.read_bytes()
    inside = lengths > 0
    assert inside.sum() > 3000
    for key, offset, length in zip(np.array(sorted(rows))[inside], offsets[inside], lengths[inside], strict=True):
        assert content[offset : offset + length] == len(key).to_bytes(2, "little") + key + rows[key]


def test_an_empty_shard_has_an_index_that_leads_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "000.mdb", {})
    assert found(tmp_path / "000.mdb", [b"a", b"bc"]) == {}


def test_lmdb_still_opens_a_file_with_an_index(tmp_path: Path) -> None:
    rows = {b"%04d" % number: b"%d" % number for number in range(1000)}
    write(tmp_path / "000.mdb", rows)
    with (
        lmdb.open(str(tmp_path / "000.mdb"), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert dict(transaction.cursor()) == rows


def test_a_file_without_its_index_cannot_be_opened_as_a_base(tmp_path: Path) -> None:
    path = tmp_path / "000.mdb"
    write_shard(path, pa.array([b"a"], pa.binary()), pa.array([b"1"], pa.binary()))
    with pytest.raises(UnavailableError, match=r"The index of the segment .* cannot be read: .* Publish again"):
        SegmentHandle(path.parent, [path.name], indexed=True)
    path.unlink()
    write(path, {b"a": b"1"})
    SegmentHandle(path.parent, [path.name], indexed=True).close()
