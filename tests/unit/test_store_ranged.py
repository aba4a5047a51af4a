"""A version of which nothing is here is read from the remote in blocks, as a dictionary would be, and verified."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_files import OWN, version

from forecache.base.errors import DamagedError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.kit.versioned import blocks
from forecache.kit.versioned.blocks import BlockFile, fetch_wanted
from forecache.serve.store import Snapshot, split_entry
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Field, ShardInfo
from forecache.serve.store.segment import ranged as ranged_reads

KEYS = st.binary(min_size=1, max_size=12)
LONG = b'{"score":"%s"}' % (b"long" * 3000)
ENTRIES = st.tuples(st.integers(0, 99), st.sampled_from([b"", OWN])).map(lambda each: b'{"score":%d}%s' % each)


def open_elsewhere(snapshot: Snapshot, folder: Path, *, has_filter: bool = True) -> Snapshot:
    """Open a version on a machine that has its filter, if at all, and nothing else, with the first as its remote."""
    layout = StoreLayout(folder / f"elsewhere-{has_filter}" / snapshot.layout.name)
    layout.create()
    if snapshot.manifest.filter is not None and has_filter:
        file = snapshot.manifest.filter.file
        layout.filter(file).write_bytes(snapshot.layout.filter(file).read_bytes())
    return Snapshot(layout, snapshot.manifest, remote=LocalFolder(snapshot.layout.root.parent))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.dictionaries(KEYS, ENTRIES | st.just(LONG), min_size=1, max_size=60),
    deltas=st.lists(st.dictionaries(KEYS, ENTRIES | st.just(b""), min_size=1, max_size=20), max_size=5),
    changed=st.data(),
)
def test_reads_from_a_remote_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, base: dict, deltas: list, changed: st.DataObject
) -> None:
    for delta in deltas:
        known = changed.draw(st.lists(st.sampled_from(sorted(base)), max_size=8))
        delta.update(dict.fromkeys(known, changed.draw(ENTRIES | st.just(b""))))
    expected = dict(base)
    for delta in deltas:
        expected.update(delta)
    asked = [*base, *(key for delta in deltas for key in delta), b"nobody"]
    answers = [expected.get(key) or None for key in asked]
    folder = tmp_path_factory.mktemp("store")
    values = [answer and split_entry(answer)[0] for answer in answers]
    for has_filter in (True, False):
        root = folder / f"store-{has_filter}" / "churn"
        root.parent.mkdir()
        with version(root, base, deltas) as whole, open_elsewhere(whole, folder, has_filter=has_filter) as ranged:
            assert (whole.is_whole, ranged.is_whole) == (True, False)
            assert ranged.get_entries(asked) == answers
            assert [ranged.get_entry(key) for key in asked] == answers
            assert [ranged.get(key) for key in asked] == ranged.get_many(asked) == values
            assert ranged.get_entries(asked * 30) == answers * 30


@pytest.mark.parametrize("has_filter", [True, False])
def test_reads_of_many_keys_take_as_many_rounds_as_the_tree_is_deep(
    tmp_path: Path, has_filter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def count_and_fetch(wanted: Any) -> None:
        nonlocal rounds
        blocks = list(wanted)
        rounds += bool(blocks)
        fetch_wanted(blocks)

    monkeypatch.setattr(ranged_reads, "fetch_wanted", count_and_fetch)
    rows = {b"%06d" % number: b'{"score":%d}' % number for number in range(20_000)}
    deltas = [{b"%06d" % number: b'{"score":-1}' for number in range(0, 20_000, step)} for step in (700, 900)]
    with version(tmp_path / "churn", rows, deltas) as whole:
        rows |= deltas[0] | deltas[1]
        asked = [b"%06d" % number for number in range(0, 20_000, 350)]
        with open_elsewhere(whole, tmp_path, has_filter=has_filter) as ranged:
            assert ranged.get_entries(asked) == [rows[key] for key in asked]
            # Checksums and head, the root, perhaps a branch and a leaf; with the filter the base, then the deltas.
            assert 0 < rounds <= (8 if has_filter else 4)
            before = rounds
            assert ranged.get_entry(asked[7]) == rows[asked[7]]
            assert rounds == before, "what is here is not fetched again"


def test_a_tree_of_many_pages_is_read_by_few_of_its_blocks(
    tmp_path: Path, count_fetched: Callable[[], tuple[int, int]]
) -> None:
    rows = {b"%06d" % number: b'{"score":%d}' % number for number in range(20_000)}
    rows[b"010000"] = LONG
    with version(tmp_path / "churn", rows, []) as whole, open_elsewhere(whole, tmp_path) as ranged:
        asked = [b"000000", b"010000", b"015678", b"019999", b"", b"01", b"02"]
        assert ranged.get_entries(asked * 10) == [rows.get(key) for key in asked] * 10
        requests, size = count_fetched()
        assert size < 0.6 * whole.manifest.size_bytes
        assert ranged.get_entries(asked) == [rows.get(key) for key in asked]
        assert count_fetched() == (requests, size)
        assert ranged.get_entries(list(rows)) == list(rows.values())
        _, size = count_fetched()
        # The pages of a shard come once, and nothing of the index behind them.
        assert 0.5 * whole.manifest.size_bytes < size < whole.manifest.size_bytes


def test_a_matrix_from_a_remote_is_that_of_the_version(tmp_path: Path) -> None:
    rows = {b"%04d" % number: np.array([number, number / 2], "<f4").tobytes() for number in range(500)}
    fields = (Field("one", "float"), Field("half", "float"))
    asked = [b"0007", b"nobody", *sorted(rows, reverse=True)]
    whole = version(tmp_path / "churn", rows, [{b"0007": bytes(8)}], layout="packed", fields=fields)
    with whole, open_elsewhere(whole, tmp_path) as ranged:
        for here, there in zip(whole.matrix(asked), ranged.matrix(asked), strict=True):
            np.testing.assert_array_equal(here, there)


@pytest.fixture
def count_fetched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Requests for ranges of files, and their bytes, so far."""
    sizes, honest = list[int](), LocalFolder.read_range

    def read_range(self: LocalFolder, *arguments: object) -> bytes:
        content = honest(self, *arguments)  # type: ignore[arg-type]
        sizes.append(len(content))
        return content

    monkeypatch.setattr(LocalFolder, "read_range", read_range)
    return lambda: (len(sizes), sum(sizes))


@pytest.mark.parametrize("place", ["block", "sums"])
def test_bytes_that_are_not_what_was_written_are_never_read(tmp_path: Path, place: str) -> None:
    rows = {b"%04d" % number: b'{"score":%d}' % number for number in range(2000)}
    with version(tmp_path / "churn", rows, [], shards=1) as whole, open_elsewhere(whole, tmp_path) as ranged:
        file = whole.files()[0]
        content = bytearray(file.read_bytes())
        at = content.index(b'{"score":1234}') if place == "block" else len(content) - 1
        content[at] ^= 1
        file.write_bytes(content)
        for _ in range(2):
            with pytest.raises(DamagedError, match=r"000\.mdb does not have the checksum"):
                ranged.get_entry(b"1234")
        content[at] ^= 1
        file.write_bytes(content)
        assert ranged.get_entry(b"1234") == rows[b"1234"]


def test_a_file_that_the_remote_lost_is_no_missing_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {b"%04d" % number: b'{"score":%d}' % number for number in range(20)}
    with version(tmp_path / "churn", rows, [], shards=1) as whole, open_elsewhere(whole, tmp_path) as ranged:
        file = whole.files()[0]
        file.rename(tmp_path / "moved")
        with pytest.raises(UnavailableError, match="The remote has no file"):
            ranged.get_entry(b"0001")
        (tmp_path / "moved").rename(file)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "read_range", away)
            with pytest.raises(UnavailableError, match="ConnectionError: away"):
                ranged.get_entries([b"0001", b"nobody"])
        assert ranged.get_entries([b"0001", b"nobody"]) == [rows[b"0001"], None]


def away(*_: object) -> bytes:
    raise ConnectionError("away")


def test_what_a_killed_process_left_of_a_file_is_used_only_where_it_is_whole(
    tmp_path: Path, count_fetched: Callable[[], tuple[int, int]]
) -> None:
    content = os.urandom(10 * blocks.BLOCK_BYTES + 7)
    (tmp_path / "file").write_bytes(content)
    info = describe(tmp_path / "file")
    first = BlockFile(LocalFolder(tmp_path), "file", info, tmp_path / "part")
    first.fetch_rest()
    first.close()
    assert count_fetched()[1] == (tmp_path / "file").stat().st_size
    damaged = bytearray((tmp_path / "part").read_bytes())
    damaged[3 * blocks.BLOCK_BYTES + 1] ^= 1
    damaged[-9:] = bytes(9)  # the last checksum, too
    (tmp_path / "part").write_bytes(damaged)
    again = BlockFile(LocalFolder(tmp_path), "file", info, tmp_path / "part")
    assert again.fetch_rest() == blocks.BLOCK_BYTES + 8 * 11
    assert bytes(again.view(0, len(content))) == content
    assert (tmp_path / "part").read_bytes() == (tmp_path / "file").read_bytes()


def describe(path: Path) -> ShardInfo:
    sums = blocks.append_block_sums(path)
    return ShardInfo(path.name, 0, path.stat().st_size, "", sums)
