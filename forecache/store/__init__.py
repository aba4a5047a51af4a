"""The precompute store: verified, immutable versions of a pipeline's predictions, and how to read and publish them.

Publishing loads Arrow and delta-rs on first use; reading needs neither.
"""

from typing import TYPE_CHECKING, Any

from forecache.store.backend import Backend, Reading, open_backend
from forecache.store.keys import KeyColumn, KeySchema, decode_key, encode_key, key_text, parse_key
from forecache.store.manifest import Field, Manifest, Provenance, SegmentInfo
from forecache.store.pointer import Pointer
from forecache.store.snapshot import Snapshot, split_entry
from forecache.store.store import Store, open_store

if TYPE_CHECKING:
    from forecache.store.diff import diff_versions
    from forecache.store.distribution import pull, push
    from forecache.store.publishing import publish
    from forecache.store.redis_backend import open_redis_store
    from forecache.store.remotes import open_remote
    from forecache.store.targets import sync_targets

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
    "diff_versions": "forecache.store.diff",
    "open_redis_store": "forecache.store.redis_backend",
    "open_remote": "forecache.store.remotes",
    "publish": "forecache.store.publishing",
    "pull": "forecache.store.distribution",
    "push": "forecache.store.distribution",
    "sync_targets": "forecache.store.targets",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
