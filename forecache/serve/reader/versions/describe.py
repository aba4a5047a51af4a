"""Descriptions of versions: a pipeline's metadata, its history, the list of pipelines."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
import xxhash

from forecache.base.settings import Settings
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_answers import LiveAnswers
from forecache.serve.store import Manifest, Store


def hash_version(manifest: Manifest) -> int:
    """A 64-bit hash that identifies a version, for a metrics cell."""
    return xxhash.xxh3_64_intdigest(f"{manifest.store} {manifest.version}".encode())


def build_labels(settings: Settings) -> dict[str, str]:
    """Versions of the package, of Python and, if a setting names it, of the code."""
    try:
        package = version("forecache")
    except PackageNotFoundError:
        package = "unknown"
    return {"version": package, "code_version": settings.code_version, "python": platform.python_version()}


def pipeline_row(answers: VersionAnswers) -> dict[str, Any]:
    manifest = answers.manifest
    return {
        "pipeline": manifest.pipeline,
        "store_version": manifest.version or None,
        "keys": manifest.rows,
        **manifest.made_by,
        "as_of": manifest.as_of,
        "published_at": manifest.published_at or None,
        "age_s": answers.age_s,
        "stale": answers.stale,
    }


def pipeline_metadata(answers: VersionAnswers) -> dict[str, Any]:
    manifest = answers.manifest
    return {
        **pipeline_row(answers),
        "key": [{"name": column.name, "type": column.type} for column in manifest.key.columns],
        "fields": [field.description for field in manifest.fields],
        **({"contract": manifest.contract, "columns": manifest.columns} if manifest.is_packed else {}),
        "policy": {"max_age_h": manifest.policy.max_age_h, "on_stale": manifest.policy.on_stale},
        "carried_forward": manifest.carried,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "segments": len(manifest.segments),
        "size_bytes": manifest.size_bytes,
        "content_hash": manifest.content_hash,
        "source": {
            "table": manifest.source.table,
            "delta_version": manifest.source.delta_version,
            "feature_version": manifest.provenance.feature_version,
        },
        "run_id": manifest.run_id,
        "code_version": manifest.code_version,
        **({"live": answers.describe_layer()} if isinstance(answers, LiveAnswers) else {}),
    }


def encode_history(store: Store) -> bytes:
    """The retained versions, newest first, as the JSON that `/versions/{pipeline}` answers."""
    pointer, bad = store.pointer(), store.blocked_versions()
    rows = []
    for manifest in reversed(store.versions()):
        number = manifest.version
        state = [name for name in ("serving", "current", "pinned") if getattr(pointer, name) == number]
        rows.append({**version_summary(manifest), "state": state + ["blocked"] * (number in bad)})
    return orjson.dumps({"pipeline": store.pipeline, "versions": rows})


def encode_served(manifest: Manifest) -> bytes:
    """As `encode_history`, of a version that is not on this machine: the others are not known."""
    row = {**version_summary(manifest), "state": ["serving", "current"]}
    return orjson.dumps({"pipeline": manifest.pipeline, "versions": [row]})


def version_summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "store_version": manifest.version,
        "parent": manifest.parent,
        "kind": manifest.kind,
        "keys": manifest.rows,
        "as_of": manifest.as_of,
        **manifest.made_by,
        "published_at": manifest.published_at,
        "source_delta_version": manifest.source.delta_version,
        "content_hash": manifest.content_hash,
        "size_bytes": manifest.size_bytes,
        **({"stream": manifest.stream, "cut": manifest.cut} if manifest.stream else {}),
    }
