"""The precompute store: verified, immutable versions of a pipeline's predictions; reading and publishing them.

The names load when they are first used: publishing needs Arrow and delta-rs, reading does not, and a client of the
reader needs the keys alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecache.serve.store.fields import Field
    from forecache.serve.store.keys import KeyColumn, KeySchema, decode_key, encode_key, parse_key
    from forecache.serve.store.manifest import Manifest, Provenance, SegmentInfo
    from forecache.serve.store.pointer import Pointer
    from forecache.serve.store.publishing.publish import publish
    from forecache.serve.store.read.snapshot import Snapshot, split_entry
    from forecache.serve.store.replicas.push_pull import pull, push
    from forecache.serve.store.replicas.sync import open_remote, sync_targets
    from forecache.serve.store.store import Store, open_store

__all__ = [
    "Field",
    "KeyColumn",
    "KeySchema",
    "Manifest",
    "Pointer",
    "Provenance",
    "SegmentInfo",
    "Snapshot",
    "Store",
    "decode_key",
    "encode_key",
    "open_remote",
    "open_store",
    "parse_key",
    "publish",
    "pull",
    "push",
    "split_entry",
    "sync_targets",
]

_HOMES = {
    "Field": "fields",
    "KeyColumn": "keys",
    "KeySchema": "keys",
    "Manifest": "manifest",
    "Pointer": "pointer",
    "Provenance": "manifest",
    "SegmentInfo": "manifest",
    "Snapshot": "read.snapshot",
    "Store": "store",
    "decode_key": "keys",
    "encode_key": "keys",
    "open_remote": "replicas.sync",
    "open_store": "store",
    "parse_key": "keys",
    "publish": "publishing.publish",
    "pull": "replicas.push_pull",
    "push": "replicas.push_pull",
    "split_entry": "read.snapshot",
    "sync_targets": "replicas.sync",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"forecache.serve.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
