"""Comparison of two versions: keys, scores, and the keys whose score changed most.

Entries are read by key: the extra `reader` has no Arrow, and of versions that share a base only deltas are read.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from forecache.serve.store.manifest import NUMERIC, Manifest
from forecache.serve.store.read.snapshot import Snapshot, split_entry
from forecache.serve.store.store import Store
from forecache.serve.store.values import json_renderer


def diff_versions(store: Store, before: int, after: int, *, top: int = 10) -> dict[str, Any]:
    """`diff_snapshots` of two retained versions by number; raises NotFoundError if one is not retained."""
    with store.snapshot(before) as old, store.snapshot(after) as new:
        return diff_snapshots(old, new, top=top)


def diff_snapshots(before: Snapshot, after: Snapshot, *, top: int = 10) -> dict[str, Any]:
    """Compare two open versions of one pipeline; if they share a base, through their deltas alone.

    The result is JSON-serialisable: `before`, `after` (version, as_of, rows, model, which is None of features), the
    counts `changed`, `added`, `removed`, `unchanged`, `provenance_only` (same values, another provenance id), `fields`
    (for each field: values that changed and, where numeric, mean of both over the changed keys, mean and largest
    absolute change, and `shift`, the change of the mean over all keys that both versions have) and `top_movers` (the
    `top` keys whose first numeric field changed most).
    """
    counts = {"changed": 0, "added": 0, "removed": 0, "provenance_only": 0}
    fields = {field.name: _FieldChange(field.type in NUMERIC) for field in after.manifest.fields}
    lead = next((field.name for field in after.manifest.fields if field.type in NUMERIC), None)
    before_row, after_row = _row_reader(before.manifest), _row_reader(after.manifest)
    movers: list[tuple[float, str, Any, Any]] = []
    for key, old, new in _differing_keys(before, after):
        if old is None:
            counts["added"] += 1
            continue
        if new is None:
            counts["removed"] += 1
            continue
        old_value, new_value = _entry_value(before, old), _entry_value(after, new)
        if old_value == new_value:
            counts["provenance_only"] += 1
            continue
        counts["changed"] += 1
        old_row, new_row = before_row(old_value), after_row(new_value)
        for name, change in fields.items():
            change.add(old_row.get(name), new_row.get(name))
        if lead is not None and top:
            moved = _distance(old_row.get(lead), new_row.get(lead))
            if moved:
                item = (moved, key.decode(), old_row.get(lead), new_row.get(lead))
                (heapq.heappush if len(movers) < top else heapq.heappushpop)(movers, item)
    common = before.manifest.rows - counts["removed"]
    return {
        "before": _describe_side(before),
        "after": _describe_side(after),
        **counts,
        "unchanged": common - counts["changed"] - counts["provenance_only"],
        "fields": {name: change.result(common) for name, change in fields.items()},
        "top_movers": [
            {"key": key, "field": lead, "before": old, "after": new, "change": new - old}
            for _, key, old, new in sorted(movers, key=lambda item: (-item[0], item[1]))
        ],
    }


def _differing_keys(before: Snapshot, after: Snapshot) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Keys whose entries differ: (key, entry before, entry after)."""
    old_ids = [segment.id for segment in before.manifest.segments]
    new_ids = [segment.id for segment in after.manifest.segments]
    old_get, new_get = before.get_entry, after.get_entry
    if old_ids[0] == new_ids[0]:
        apart = set(old_ids) ^ set(new_ids)
        for key in sorted(before.delta_keys(apart) | after.delta_keys(apart)):
            old, new = old_get(key), new_get(key)
            if old != new:
                yield key, old, new
        return
    for key, old in before.items():
        new = new_get(key)
        if old != new:
            yield key, old, new
    for key, new in after.items():
        if old_get(key) is None:
            yield key, None, new


def _entry_value(snapshot: Snapshot, entry: bytes) -> bytes:
    return split_entry(entry)[0] if snapshot.manifest.carried else entry


def _row_reader(manifest: Manifest) -> Callable[[bytes], dict[str, Any]]:
    """The function from a value to its fields."""
    if not manifest.is_packed:
        return orjson.loads
    json_of = json_renderer(manifest.fields)
    return lambda value: orjson.loads(json_of(value))


def _distance(old: Any, new: Any) -> float:
    return 0.0 if old is None or new is None else abs(new - old)


def _describe_side(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    model = manifest.made_by.get("model")
    return {"version": manifest.version, "as_of": manifest.as_of, "model": model, "rows": manifest.rows}


class _FieldChange:
    """Sums up the changes of one field over the changed keys."""

    def __init__(self, numeric: bool) -> None:
        self.numeric = numeric
        self.changed = self.known = 0
        self.before = self.after = self.absolute = self.largest = 0.0

    def add(self, old: Any, new: Any) -> None:
        if old == new:
            return
        self.changed += 1
        if self.numeric and old is not None and new is not None:
            self.known += 1
            self.before += old
            self.after += new
            moved = abs(new - old)
            self.absolute += moved
            self.largest = max(self.largest, moved)

    def result(self, common: int) -> dict[str, Any]:
        if not self.numeric or self.known == 0:
            return {"changed": self.changed}
        return {
            "changed": self.changed,
            "mean_before": self.before / self.known,
            "mean_after": self.after / self.known,
            "mean_absolute_change": self.absolute / self.known,
            "largest_change": self.largest,
            "shift": (self.after - self.before) / common,
        }
