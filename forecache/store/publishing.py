"""Publishing: the newest night of a prediction table becomes the served version, verified before it does."""

import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from forecache.errors import CheckError, NotFoundError
from forecache.lake.ledger import code_version
from forecache.lake.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.store.build import num_shards, write_shard
from forecache.store.encode import Encoding, encode_entries, encode_keys, field_list, key_schema, provenance_counts
from forecache.store.hashing import content_sum, to_hex
from forecache.store.layout import Layout, move_durably, shard_file, write_durably
from forecache.store.locks import publisher_lock
from forecache.store.manifest import Manifest, Policy, SegmentInfo, Source, now
from forecache.store.pointer import Pointer, read_pointer, write_pointer
from forecache.store.snapshot import Snapshot
from forecache.store.store import open_store


def publish(
    settings: Settings,
    pipeline: Pipeline,
    *,
    night: date | None = None,
    full: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Publish a night's predictions (None: the newest) to the pipeline's store."""
    started = time.perf_counter()
    store = open_store(settings, pipeline.name)
    table = open_table(settings, pipeline.prediction_table)
    dataset = table.to_pyarrow_dataset()
    nights = sorted({date.fromisoformat(str(p[AS_OF])) for p in table.partitions()})
    if not nights or (night is not None and night not in nights):
        raise NotFoundError(
            f"The prediction table of {pipeline.name} has no rows for {night or 'any night'}.",
            remedy=f"Run `forecache score {pipeline.name}` first.",
        )
    night = night or nights[-1]
    inputs = f"{pipeline.fingerprint}:{','.join(pipeline.served_fields)}:{table.version()}:{night}"
    with publisher_lock(store.layout, action="publish"):
        current = store.current()
        if current is not None and not full and current.inputs == inputs:
            return _result(pipeline, current, night, started, skipped=True)
        progress(f"Reading predictions of {night}", 0.0)
        schema = dataset.schema
        key = key_schema(schema, pipeline.key)
        fields = field_list(schema, pipeline.served_fields)
        import pyarrow.dataset as ds

        rows = dataset.to_table(
            columns=[*key.names, *(f.name for f in fields), *_provenance_columns()], filter=ds.field(AS_OF) == night
        )
        counts = provenance_counts(rows)
        default = max(counts, key=lambda item: (counts[item], item.scored_at))
        encoding = Encoding(key, fields, default)
        keys = encode_keys(rows, key)
        entries, others, carried = encode_entries(rows, encoding)
        pointer = read_pointer(store.layout)
        version = pointer.last + 1
        manifest = _build(
            store.layout,
            version,
            keys,
            entries,
            dict(
                pipeline=pipeline.name,
                version=version,
                parent=pointer.current,
                kind="full",
                tombstones=0,
                key=key,
                fields=fields,
                source=Source(
                    pipeline.prediction_table,
                    settings.table_uri(pipeline.prediction_table),
                    table.version(),
                    night.isoformat(),
                ),
                provenance=default,
                provenances=others,
                carried=carried,
                policy=Policy(pipeline.publish.max_age_h, pipeline.publish.on_stale),
                code_version=code_version(settings),
                run_id=run_id,
                inputs=inputs,
            ),
        )
        write_pointer(store.layout, Pointer(version, pointer.pinned, version, pointer.generation + 1))
        return _result(pipeline, manifest, night, started, skipped=False)


def _provenance_columns() -> list[str]:
    from forecache.pipeline import PROVENANCE_COLUMNS

    return list(PROVENANCE_COLUMNS)


def _build(layout: Layout, version: int, keys: pa.Array, entries: pa.Array, facts: dict[str, Any]) -> Manifest:
    segment_id = f"{version:08d}-base"
    work: Path = layout.staging / segment_id
    work.mkdir(parents=True, exist_ok=True)
    shards = num_shards(len(keys))
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, keys.to_pylist()), np.uint64, len(keys))
    shard_of = hashes & np.uint64(shards - 1)
    infos = []
    for index in range(shards):
        places = pa.array(np.flatnonzero(shard_of == index))
        infos.append(write_shard(work / shard_file(index), keys.take(places), entries.take(places)))
    expected = content_sum(zip(keys.to_pylist(), entries.to_pylist(), strict=True))
    segment = SegmentInfo(segment_id, "base", len(keys), 0, tuple(infos))
    move_durably(work, layout.segment(segment_id))
    manifest = Manifest(
        segments=(segment,), rows=len(keys), content_hash=to_hex(expected), published_at=now(), **facts
    )
    with Snapshot(layout, manifest) as snapshot:
        actual = content_sum(snapshot.items())
    if actual != expected:
        raise CheckError("The built version does not read back as the source has it.", remedy="Publish again.")
    layout.lease(version).touch()
    write_durably(layout.manifest(version), manifest.to_json())
    return manifest


def _result(pipeline: Pipeline, manifest: Manifest, night: date, started: float, *, skipped: bool) -> StageResult:
    return StageResult(
        stage="publish",
        subject=pipeline.name,
        nights=(night,),
        rows=manifest.rows,
        seconds=time.perf_counter() - started,
        table=pipeline.prediction_table,
        delta_version=manifest.source.delta_version,
        skipped=skipped,
        details={
            "version": manifest.version,
            "kind": manifest.kind,
            "keys": manifest.rows,
            "changed": manifest.rows,
            "removed": 0,
            "segments": len(manifest.segments),
            "size_bytes": manifest.size_bytes,
            "verified": True,
        },
    )
