"""Versions that are made of segments written directly, without a table and a publish."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from forecache.serve.store import KeyColumn, KeySchema, Manifest, Provenance, Snapshot
from forecache.serve.store.layout import StoreLayout, shard_file
from forecache.serve.store.manifest import Field, SegmentInfo, StalePolicy, TableSource, manifest_from_json
from forecache.serve.store.publishing.full import shards_of
from forecache.serve.store.segment.index import key_hashes, write_filter, write_hashes
from forecache.serve.store.segment.writer import write_shard

OWN = b"\n1f09a2c4"


def segment(layout: StoreLayout, name: str, rows: dict[bytes, bytes], *, shards: int, kind: str) -> SegmentInfo:
    folder = layout.segment(name)
    folder.mkdir()
    keys = list(rows)
    shard_of = shards_of(keys, shards)
    infos = []
    for shard in range(shards):
        chosen = [key for key, at in zip(keys, shard_of, strict=True) if at == shard]
        values = pa.array([rows[key] for key in chosen], pa.binary())
        infos.append(
            write_shard(folder / shard_file(shard), pa.array(chosen, pa.binary()), values, indexed=kind == "base")
        )
    hashes = write_hashes(folder, key_hashes(keys)) if kind == "delta" else None
    return SegmentInfo(name, kind, len(rows), list(rows.values()).count(b""), tuple(infos), hashes)


def version(
    root: Path, base: dict[bytes, bytes], deltas: list[dict[bytes, bytes]], *, shards: int = 4, **changes: Any
) -> Snapshot:
    """A version over a base and deltas; an empty entry of a delta is a tombstone.

    Args:
        changes: To the manifest.
    """
    layout = StoreLayout(root)
    layout.create()
    segments = [segment(layout, "base", base, shards=shards, kind="base")]
    for number, rows in enumerate(deltas):
        segments.append(segment(layout, f"delta-{number}", rows, shards=1, kind="delta"))
    manifest = Manifest(
        pipeline="churn",
        store="0123",
        version=1,
        parent=None,
        kind="full",
        segments=tuple(segments),
        rows=len(base),
        tombstones=0,
        content_hash="0" * 32,
        key=KeySchema((KeyColumn("customer_id", "string"),)),
        fields=(Field("score", "bigint"),),
        source=TableSource("predictions_churn", "/lake/predictions_churn", 3, "1998-06-30"),
        provenance=Provenance("churn", 3, 7, "1998-07-01T03:00:00.000000Z", "run-1"),
        carried=sum(entry.endswith(OWN) for rows in (base, *deltas) for entry in rows.values()),
        policy=StalePolicy(36.0, "flag"),
        published_at="1998-07-01T04:00:00.000000Z",
        code_version="abc",
        run_id="run-1",
        inputs="x",
        filter=write_filter(layout, 1, segments[1:]) if deltas else None,
    )
    assert manifest_from_json(manifest.to_json()) == manifest
    return Snapshot(layout, replace(manifest, **changes))
