"""The precompute store: verified, immutable versions of a pipeline's predictions, and how to read and publish them.

Publishing loads Arrow and delta-rs on first use; reading needs neither.
"""

from typing import TYPE_CHECKING, Any

from forecache.store.backend import Backend, Reading, open_backend
from forecache.store.keys import KeyColumn, KeySchema, decode_key, encode_key, key_text, parse_key
from forecache.store.manifest import Field, Manifest, Provenance, SegmentInfo
from forecache.store.pointer import Pointer
from forecache.store.read.snapshot import Snapshot, split_entry
from forecache.store.store import Store, open_store

if TYPE_CHECKING:
    from forecache.store.publishing.publish import publish
    from forecache.store.read.compare_versions import diff_versions
    from forecache.store.redis.versions import open_redis_store
    from forecache.store.replicas.push_pull import pull, push
    from forecache.store.replicas.remotes import open_remote
    from forecache.store.replicas.sync import sync_targets

__all__ = [
    "Backend",
    "Field",
    "KeyColumn",
    "KeySchema",
    "Manifest",
    "Pointer",
    "Provenance",
    "Reading",
    "SegmentInfo",
    "Snapshot",
    "Store",
    "decode_key",
    "diff_versions",
    "encode_key",
    "key_text",
    "open_backend",
    "open_redis_store",
    "open_remote",
    "open_store",
    "parse_key",
    "publish",
    "pull",
    "push",
    "split_entry",
    "sync_targets",
]

_LAZY = {
    "diff_versions": "forecache.store.read.compare_versions",
    "open_redis_store": "forecache.store.redis.versions",
    "open_remote": "forecache.store.replicas.remotes",
    "publish": "forecache.store.publishing.publish",
    "pull": "forecache.store.replicas.push_pull",
    "push": "forecache.store.replicas.push_pull",
    "sync_targets": "forecache.store.replicas.sync",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
