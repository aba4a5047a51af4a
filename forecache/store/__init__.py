"""The precompute store: verified, immutable versions of a pipeline's predictions, and how to read and publish them.

Publishing loads Arrow and delta-rs on first use; reading needs neither.
"""

from typing import TYPE_CHECKING, Any

from forecache.store.keys import KeyColumn, KeySchema, decode_key, encode_key, key_text, parse_key
from forecache.store.manifest import Field, Manifest, Provenance, SegmentInfo
from forecache.store.pointer import Pointer
from forecache.store.snapshot import Snapshot, split_entry
from forecache.store.store import Store, open_store

if TYPE_CHECKING:
    from forecache.store.publishing import publish

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
    "key_text",
    "open_store",
    "parse_key",
    "publish",
    "split_entry",
]

_LAZY = {"publish": "forecache.store.publishing"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
