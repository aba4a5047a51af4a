"""The precompute store: verified, immutable versions of a pipeline's predictions; reading and publishing them.

The names load when they are first used: publishing needs Arrow and delta-rs, reading does not, and a client of the
reader needs the keys alone.
"""

from typing import TYPE_CHECKING

from forecache.base.lazy_names import list_homes, load_lazily

if TYPE_CHECKING:
    from forecache.serve.store.keys import KeyColumn as KeyColumn
    from forecache.serve.store.keys import KeySchema as KeySchema
    from forecache.serve.store.keys import decode_key as decode_key
    from forecache.serve.store.keys import encode_key as encode_key
    from forecache.serve.store.keys import parse_key as parse_key
    from forecache.serve.store.manifest import Field as Field
    from forecache.serve.store.manifest import Manifest as Manifest
    from forecache.serve.store.manifest import Provenance as Provenance
    from forecache.serve.store.manifest import SegmentInfo as SegmentInfo
    from forecache.serve.store.pointer import Pointer as Pointer
    from forecache.serve.store.publishing.publish import publish as publish
    from forecache.serve.store.push_pull import pull as pull
    from forecache.serve.store.push_pull import push as push
    from forecache.serve.store.push_pull import sync_targets as sync_targets
    from forecache.serve.store.read.snapshot import Snapshot as Snapshot
    from forecache.serve.store.read.snapshot import split_entry as split_entry
    from forecache.serve.store.remote import open_remote as open_remote
    from forecache.serve.store.remote_store import open_store as open_store
    from forecache.serve.store.store import Store as Store

_HOMES = list_homes(
    {
        "forecache.serve.store.keys": "KeyColumn KeySchema decode_key encode_key parse_key",
        "forecache.serve.store.pointer": "Pointer",
        "forecache.serve.store.manifest": "Field Manifest Provenance SegmentInfo",
        "forecache.serve.store.publishing.publish": "publish",
        "forecache.serve.store.push_pull": "pull push sync_targets",
        "forecache.serve.store.read.snapshot": "Snapshot split_entry",
        "forecache.serve.store.remote": "open_remote",
        "forecache.serve.store.remote_store": "open_store",
        "forecache.serve.store.store": "Store",
    }
)
__all__ = sorted(_HOMES)
__getattr__ = load_lazily(__name__, _HOMES)
