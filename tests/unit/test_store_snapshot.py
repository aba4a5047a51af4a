"""Snapshots over base and delta segments read what a dictionary with the same changes would."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_files import OWN, version

from forecache.base.errors import InputError, UnavailableError
from forecache.serve.store import Snapshot, split_entry
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import manifest_from_json
from forecache.serve.store.publishing.full import shards_of
from forecache.serve.store.publishing.publication import read_back
from forecache.serve.store.read import lookup as together
from forecache.serve.store.segment import mapping
from forecache.serve.store.segment.writer import num_shards, write_shard

KEYS = st.binary(min_size=1, max_size=12)
ENTRIES = st.tuples(st.integers(0, 99), st.sampled_from([b"", OWN])).map(lambda each: b'{"score":%d}%s' % each)


@pytest.mark.parametrize("few", [0, 1000])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.dictionaries(KEYS, ENTRIES, min_size=1, max_size=60),
    deltas=st.lists(st.dictionaries(KEYS, ENTRIES | st.just(b""), min_size=1, max_size=20), max_size=10),
    changed=st.data(),
)
def test_reads_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    base: dict,
    deltas: list,
    changed: st.DataObject,
) -> None:
    monkeypatch.setattr(together, "_FEW", few)  # through the index, and one by one
    for delta in deltas:  # most changes are of keys that are there
        known = changed.draw(st.lists(st.sampled_from(sorted(base)), max_size=8))
        delta.update(dict.fromkeys(known, changed.draw(ENTRIES | st.just(b""))))
    expected = dict(base)
    for delta in deltas:
        expected.update(delta)
    expected = {key: entry for key, entry in expected.items() if entry}
    asked = [*base, *(key for delta in deltas for key in delta), b"nobody"]
    with version(tmp_path_factory.mktemp("store"), base, deltas) as snapshot:
        values = {key: split_entry(entry)[0] for key, entry in expected.items()}
        assert [snapshot.get(key) for key in asked] == [values.get(key) for key in asked]
        assert [snapshot.get_entry(key) for key in asked] == [expected.get(key) for key in asked]
        assert snapshot.get_many(asked) == [values.get(key) for key in asked]
        assert snapshot.get_entries(asked) == [expected.get(key) for key in asked]
        assert dict(snapshot.items()) == expected
        per_shard = [dict(snapshot.shard_items(shard)) for shard in range(4)]
        assert sum(map(len, per_shard)) == len(expected)


@pytest.mark.parametrize(("deltas", "width"), [(1, 1), (8, 1), (9, 2), (17, 4), (33, 8), (64, 8)])
def test_filters_of_every_width_lead_to_the_newest_entry(tmp_path: Path, deltas: int, width: int) -> None:
    base = {b"%04d" % number: b'{"score":0}' for number in range(200)}
    layers = [{b"%04d" % number: b'{"score":%d}' % (number + 1)} for number in range(deltas)]
    layers[-1][b"0199"] = b""
    with version(tmp_path, base, layers) as snapshot:
        assert snapshot.manifest.filter is not None
        assert snapshot.layout.filter(snapshot.manifest.filter.file).read_bytes()[0] == width
        for number in range(deltas):
            assert snapshot.get(b"%04d" % number) == b'{"score":%d}' % (number + 1)
        assert snapshot.get(b"0198") == b'{"score":0}'
        assert snapshot.get(b"0199") is None


def test_two_snapshots_share_what_they_map_and_closing_one_leaves_the_other(tmp_path: Path) -> None:
    first = version(tmp_path, {b"a": b'{"score":1}'}, [])
    second = Snapshot(first.layout, first.manifest)
    assert first.warm() == first.mapped_bytes
    first.close()
    first.close()
    assert second.get(b"a") == b'{"score":1}'
    second.close()
    with pytest.raises(Exception, match="closed"):
        second.get(b"a")
    with pytest.raises(AttributeError):
        second.get_many([b"a"] * 100)


def test_warming_enters_every_page_of_a_segment_before_it_is_read(tmp_path: Path) -> None:
    rows = {b"%06d" % number: b'{"score":%d}' % number for number in range(100_000)}
    with version(tmp_path, rows, [], shards=1) as snapshot:
        path = snapshot.files()[0]
        snapshot.warm()
        size = -(-path.stat().st_size // 4096) * 4
        assert resident(path) == [size, size]  # LMDB's mapping, and that of the index


def test_closing_clears_the_page_tables_before_it_unmaps_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmapped: list[list[int]] = []
    close = mapping._LmdbFile.close

    def close_watched(file: mapping._LmdbFile) -> None:
        unmapped.append(resident(file.path))
        close(file)

    monkeypatch.setattr(mapping._LmdbFile, "close", close_watched)
    rows = {b"%06d" % number: b'{"score":%d}' % number for number in range(100_000)}
    with version(tmp_path, rows, [], shards=1) as snapshot:
        snapshot.warm()
        snapshot.close()
    assert unmapped == [[0]]  # LMDB's mapping; that of the index is gone


def resident(path: Path) -> list[int]:
    """What of each mapping of a file is entered in this process, KiB."""
    mappings = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return [int(re.search(r"\nRss: +(\d+) kB", text)[1]) for text in mappings]  # type: ignore[index]


def test_a_manifest_of_another_format_names_it_and_the_remedy(tmp_path: Path) -> None:
    with version(tmp_path, {b"a": b'{"score":1}'}, []) as snapshot:
        content = replace(snapshot.manifest, format=1).to_json()
    with pytest.raises(UnavailableError, match="has the format 1") as caught:
        manifest_from_json(content)
    assert "reads format 6" in str(caught.value)
    assert "publish again" in str(caught.value)


def test_a_key_in_the_wrong_shard_does_not_pass_the_read_back(tmp_path: Path) -> None:
    rows = {b"%04d" % number: b'{"score":1}' for number in range(100)}
    with version(tmp_path, rows, []) as snapshot:
        assert sum(read_back(snapshot, shard)[0] for shard in range(4)) == 100
        # Two shards change places: every key is still in a file, but not where a reader looks.
        names = [shard.file for shard in snapshot.manifest.segments[0].shards]
        folder = snapshot.layout.segment("base")
        moved = StoreLayout(tmp_path / "moved")
        moved.create()
        moved.segment("base").mkdir()
        for source, target in zip(names, [names[1], names[0], *names[2:]], strict=True):
            (moved.segment("base") / target).write_bytes((folder / source).read_bytes())
        with Snapshot(moved, snapshot.manifest) as wrong:
            assert sum(read_back(wrong, shard)[0] for shard in range(4)) < 100


def test_an_entry_splits_into_its_object_and_its_provenance() -> None:
    assert split_entry(b'{"score":1}') == (b'{"score":1}', "")
    assert split_entry(b'{"score":1}\n1f09a2c4') == (b'{"score":1}', "1f09a2c4")


def test_shards_are_a_power_of_two_that_grows_with_the_rows() -> None:
    counts = [num_shards(rows) for rows in (0, 1, 400_000, 400_001, 10_000_000, 20_000_000, 10**12)]
    assert counts == [1, 1, 1, 2, 32, 64, 256]
    spread = np.bincount(shards_of([b"%010d" % number for number in range(20_000)], 32))
    assert spread.min() > 500


def test_long_and_many_entries_fit_and_duplicates_are_named(tmp_path: Path) -> None:
    long_entries = pa.array([b"x" * size for size in (1, 2000, 5000, 100_000)])
    keys = pa.array([b"k" * 511, b"b", b"a", b"c"])
    assert write_shard(tmp_path / "long.mdb", keys, long_entries).entries == 4
    long_keys = pa.array([b"%0500d" % number for number in range(3000)])
    assert write_shard(tmp_path / "keys.mdb", long_keys, pa.array([b"{}"] * 3000)).entries == 3000
    with pytest.raises(InputError, match="1 keys occur more than once .* such as 'a'"):
        write_shard(tmp_path / "twice.mdb", pa.array([b"a", b"b", b"a"]), pa.array([b"1", b"2", b"3"]))
