"""Publishing: the newest as-of date of predictions or features becomes the served version after verification."""

import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import pyarrow as pa

from forecache.base.code_version import code_version
from forecache.base.errors import CheckError, DamagedError, NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, is_looking, publish_step
from forecache.declare import Served
from forecache.declare.served import max_age_h
from forecache.serve.store.encoding.column_values import packed_fields, state_fields
from forecache.serve.store.encoding.entries import field_list, key_schema
from forecache.serve.store.encoding.prediction_source import NightSource, open_night
from forecache.serve.store.integrity import VERIFY_EVERY_S, verify_version
from forecache.serve.store.layout import remove_tree
from forecache.serve.store.live.layer import read_layer
from forecache.serve.store.manifest import Field, Manifest
from forecache.serve.store.pointer import Pointer, new_store_id
from forecache.serve.store.publishing.full import build_full, encode_night
from forecache.serve.store.publishing.incremental import build_incremental, compact, compaction_reason
from forecache.serve.store.publishing.overlay import Overlay, open_overlay
from forecache.serve.store.publishing.publication import PendingVersion, Publication
from forecache.serve.store.publishing.row_changes import ChangesUnavailable
from forecache.serve.store.publishing.worker_pool import ProcessPool, num_workers
from forecache.serve.store.push_pull import sync_targets
from forecache.serve.store.remote_store import open_store
from forecache.serve.store.store import Store, remove_leftovers, retire_versions


def publish(
    settings: Settings,
    pipeline: Served,
    *,
    night: date | None = None,
    full: bool = False,
    replace_remote: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
    approve: Callable[[NightSource], None] = lambda _: None,
) -> StageResult:
    """Make the rows of an as-of date the served version of the pipeline's store.

    The new version is a small segment over the current one if at most `compact_share` of the keys differ, and a new
    base otherwise. If the small segments together hold more than that, or base and segments are more than
    `max_segments`, they are merged into a new base. It becomes current only after its rows, read back through the
    reader's own code, hash to the same as the source's. A publish whose content is current already writes no version.

    Args:
        night: As-of date to publish, None: the newest.
        full: Build a new base even if a small segment would do, and even if nothing has changed.
        replace_remote: Start from what this machine has, and let it take the place of what the remote has.
        approve: Called under the publisher's lock with the source that is about to be published; refuses it by raising.

    Raises:
        NotFoundError: There are no rows for that as-of date.
        InputError: Null, duplicate or too long keys, or types that cannot be published.
        CheckError: `approve`, a publish gate or the verification refuses, or the content is that of a blocked
            version.
        ConflictError: Another process is changing the store; or the remote has another store than this machine.
        UnavailableError: The remote cannot be reached. Nothing was changed.
    """
    started = time.perf_counter()
    store = open_store(settings, pipeline.name)
    hold = partial(store.hold, "publish", needs_remote=True, replaces_remote=replace_remote, progress=progress)
    with store.look() if is_looking() else hold():
        publish_step("locked")
        # Under the lock, so that no older source is published after another publish.
        source = open_night(settings, pipeline, night)
        approve(source)
        key, fields = key_schema(source.schema, pipeline.key), served_fields(source.schema, pipeline)
        overlay = open_overlay(settings, read_layer(store.layout), key=key, fields=fields, night=source.night)
        publish_step("stream read")
        inputs = content_inputs(pipeline, source, overlay)
        if not is_looking():
            remove_leftovers(store)
        publish_step("cleaned")
        pointer = store.pointer()
        current, damage = _find_current(store, pointer, inputs="" if full or replace_remote else inputs)
        if current is not None and current.inputs == inputs and not (full or damage or replace_remote):
            targets = sync_targets(settings, pipeline, store, progress)
            return _result(pipeline, current, started, {"changed": 0, "removed": 0, "targets": targets}, skipped=True)
        begin_work(f"publishing {pipeline.name}", stale=(current.inputs if current else "", inputs))
        _refuse_blocked(store, inputs)
        publication = Publication(
            settings=settings,
            pipeline=pipeline,
            store=store,
            store_id=pointer.store or new_store_id(),
            source=source,
            key=key,
            fields=fields,
            states=state_fields(pipeline.packed.states) if pipeline.packed else (),
            version=store.next_version(),
            current=current,
            inputs=inputs,
            run_id=run_id,
            code_version=code_version(settings),
            progress=progress,
            overlay=overlay,
        )
        why_full = "asked for" if full else "it takes the place of what the remote has" if replace_remote else damage
        pending = _build_pending(publication, why_full=why_full)
        store.add_current(
            pending.manifest,
            pointer.advance(store=publication.store_id, current=publication.version, last=publication.version),
            keep=pipeline.publishing.keep,
        )
        remove_tree(publication.staging)
        pending.details["retired"] = retire_versions(store, keep=pipeline.publishing.keep)
        publish_step("retired")
        pending.details["targets"] = sync_targets(settings, pipeline, store, progress)
    progress(f"Version {publication.version} of {pipeline.name} is served", 1.0)
    return _result(pipeline, pending.manifest, started, pending.details, skipped=False)


def content_inputs(pipeline: Served, source: NightSource, overlay: Overlay | None = None) -> str:
    """Everything that the content of a version depends on, as one text."""
    rules = [max_age_h(pipeline), pipeline.publishing.on_stale, *([pipeline.end] if pipeline.end else [])]
    parts = [*pipeline.key, "->", *pipeline.served_fields, *rules, source.source.as_of]
    contract = [pipeline.packed.contract, *pipeline.packed.states] if pipeline.packed else []
    streamed = [overlay.digest] if overlay is not None and overlay.num_rows else []
    return ":".join(map(str, [*parts, *contract, source.digest, *streamed]))


def served_fields(schema: pa.Schema, pipeline: Served) -> tuple[Field, ...]:
    """The fields of a version; raises InputError for a column of a type that cannot be served."""
    if pipeline.packed is not None:
        return packed_fields(schema, pipeline.served_fields, pipeline.packed)
    return field_list(schema, pipeline.served_fields)


def _refuse_blocked(store: Store, inputs: str) -> None:
    bad = store.blocked_versions()
    found = [each.version for each in store.versions() if each.inputs == inputs and each.version in bad]
    if found:
        number = found[-1]
        raise CheckError(
            f"These rows are those of version {number}, which is blocked ({bad[number]}).",
            remedy=f"Score again, or unblock it with `forecache store unblock {store.pipeline} {number}`.",
        )


def _find_current(store: Store, pointer: Pointer, *, inputs: str) -> tuple[Manifest | None, str]:
    """(version that the gates compare with, reason for a full publish or "").

    Verifies files of the current version that were not verified for a day, so that no publish builds on damaged ones.
    Of those that are only in the remote it fetches what the publish reads whole. If its manifest cannot be read, the
    gates compare with the newest good version before it.

    Args:
        inputs: Those of a publish that may be skipped or incremental; "": it is full.
    """
    if pointer.current is None:
        return None, ""
    current: Manifest | None = None
    try:
        current = store.manifest(pointer.current)
        is_here = store.layout.has_files(pointer.current)
        if not is_here:
            if inputs in ("", current.inputs):
                return current, ""
            store.fetch_hashes(current)
        verify_version(store.layout, current, max_age_s=VERIFY_EVERY_S, has_all=is_here)
    except (CheckError, DamagedError, NotFoundError) as error:
        bad = store.blocked_versions()
        earlier = [each for each in store.versions() if each.version < pointer.current and each.version not in bad]
        return current or next(reversed(earlier), None), f"version {pointer.current} is damaged. {error.message}"
    return current, ""


def _build_pending(publication: Publication, *, why_full: str) -> PendingVersion:
    """Build a verified version that is not current yet: incremental if that is possible and pays, else full."""
    why_full = why_full or _full_publish_reason(publication)
    if not why_full:
        try:
            pending = build_incremental(publication)
            reason = compaction_reason(publication, pending.manifest)
            return compact(publication, pending, reason) if reason else pending
        except ChangesUnavailable as unavailable:
            why_full = str(unavailable)
        except DamagedError as error:  # of a version in the remote, which is verified when it is read
            why_full = f"version {publication.published.version} is damaged. {error.message}"
    publication.progress(f"A full publish: {why_full}", 0.0)
    with ProcessPool(num_workers(publication.source.num_rows or 0)) as pool:
        night = encode_night(publication, pool)
        return build_full(publication, night, pool, reason=why_full)


def _full_publish_reason(publication: Publication) -> str:
    """The reason why an incremental publish is impossible; "" if it is possible."""
    current = publication.current
    if current is None:
        return "the first version"
    packed = publication.pipeline.packed
    if packed is not None and current.contract != packed.contract:
        return "the features mean something else than those published"
    if (current.key, current.fields, current.states) != (publication.key, publication.fields, publication.states):
        return "the key or the served fields have changed"
    if current.streamed and (publication.overlay is None or current.stream != publication.overlay.stream):
        return f"rows come from the stream {current.stream} no more"
    if current.source.uri != publication.source.source.uri:
        return "the rows are in another table"
    if current.source.delta_version > publication.source.source.delta_version:
        return "the table was restored to an earlier Delta version"
    return ""


def _result(
    pipeline: Served, manifest: Manifest, started: float, details: dict[str, Any], *, skipped: bool
) -> StageResult:
    streamed = {"stream": manifest.stream, "cut": manifest.cut, "streamed": manifest.streamed}
    return StageResult(
        stage="publish",
        subject=pipeline.name,
        nights=(date.fromisoformat(manifest.as_of),),
        rows=manifest.rows,
        seconds=time.perf_counter() - started,
        table=pipeline.served_table,
        delta_version=manifest.source.delta_version,
        skipped=skipped,
        details={
            "version": manifest.version,
            "kind": manifest.kind,
            "keys": manifest.rows,
            "segments": len(manifest.segments),
            "size_bytes": manifest.size_bytes,
            "content_hash": manifest.content_hash,
            "verified": True,
            **(streamed if manifest.stream else {}),
            **details,
        },
    )
