"""Which keys a small segment holds, from the rows that were removed and added."""

import numpy as np
import pyarrow as pa

from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import EntryEncoding
from forecache.serve.store.keys import KeyColumn, KeySchema
from forecache.serve.store.manifest import Field, Provenance
from forecache.serve.store.publishing.row_changes import ChangedRows, KeyChanges, RowChanges, find_key_changes

ENCODING = EntryEncoding(
    KeySchema((KeyColumn("customer_id", "string"),)),
    (Field("score", "double"),),
    Provenance("churn", 3, 12, "", "run-1"),
)


def rows(*batches: dict[str, float], keep_entries: bool) -> ChangedRows:
    found = ChangedRows(ENCODING, keep_entries=keep_entries)
    for batch in batches:
        columns = {"customer_id": list(batch), "score": list(batch.values())}
        found.add(pa.RecordBatch.from_pydict(columns), "row {}", only=ENCODING.provenance)
    return found


def changes(
    removed: list[dict[str, float]], added: list[dict[str, float]], moments: list[int] | None = None
) -> KeyChanges:
    return find_key_changes(
        RowChanges(
            removed=rows(*removed, keep_entries=False),
            added=rows(*added, keep_entries=True),
            origin="a test",
            moments=None if moments is None else np.array(moments),
        )
    )


def entry(score: float) -> bytes:
    return b'{"score":%r}' % score


def test_only_keys_with_another_entry_travel_in_the_order_of_their_keys() -> None:
    found = changes([{"c": 0.5, "b": 0.25, "same": 0.75}], [{"same": 0.75, "a": 0.125}, {"c": 0.625}])
    assert found.key_list == [b"a", b"b", b"c"]
    assert found.entries.to_pylist() == [entry(0.125), b"", entry(0.625)]
    assert (found.new.tolist(), found.num_added, found.num_removed) == ([True, False, False], 1, 1)
    assert found.old_sum == hashing.content_sum([(b"b", entry(0.25)), (b"c", entry(0.5))])
    assert hashing.hash_sum(found.hashes) == hashing.content_sum([(b"a", entry(0.125)), (b"c", entry(0.625))])


def test_of_several_commits_the_first_says_what_was_and_the_last_what_is() -> None:
    # In commits 1 to 3: "a" goes to 0.5 and on to 0.75; "b" comes and goes again; "c" goes and comes back.
    removed = [{"a": 0.25, "c": 0.125}, {"a": 0.5, "b": 0.5}]
    added = [{"a": 0.5, "b": 0.5}, {"a": 0.75}, {"c": 0.125}]
    found = changes(removed, added, moments=[2, 2, 4, 4, 3, 3, 5, 7])
    assert found.key_list == [b"a"]
    assert found.entries.to_pylist() == [entry(0.75)]
    assert found.old_sum == hashing.content_sum([(b"a", entry(0.25))])


def test_nothing_was_removed_and_nothing_added() -> None:
    found = changes([], [])
    assert (found.key_list, found.num_added, found.num_removed, found.old_sum) == ([], 0, 0, 0)


def test_rows_from_another_run_differ_even_where_their_values_do_not() -> None:
    added = ChangedRows(ENCODING, keep_entries=True)
    batch = pa.RecordBatch.from_pydict({"customer_id": ["a"], "score": [0.5]})
    added.add(batch, "row {}", only=Provenance("churn", 4, 12, "", "run-2"))
    found = find_key_changes(RowChanges(rows({"a": 0.5}, keep_entries=False), added, "a test"))
    assert [item.partition(b"\n")[0] for item in found.entries.to_pylist()] == [entry(0.5)]
