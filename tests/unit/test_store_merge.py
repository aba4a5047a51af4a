"""Laying newer entries over older ones."""

from hypothesis import given
from hypothesis import strategies as st

from forecache.serve.store.read.snapshot import merge_rows

KEYS = st.binary(min_size=1, max_size=2)


@given(base=st.dictionaries(KEYS, st.just(b"old")), overlay=st.dictionaries(KEYS, st.sampled_from([b"new", b""])))
def test_merged_entries_are_in_order_and_the_newer_ones_win(
    base: dict[bytes, bytes], overlay: dict[bytes, bytes]
) -> None:
    expected = {key: entry for key, entry in {**base, **overlay}.items() if entry}
    assert list(merge_rows(iter(sorted(base.items())), overlay)) == sorted(expected.items())
