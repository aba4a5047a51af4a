"""The thin online reader: an HTTP server for the precompute store, and its client.

It depends on the store and nothing heavier. Names are imported at first use, so that a server worker does not load the
client's HTTP library, nor a client the server.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecache.serve.reader.client import AsyncClient, Client
    from forecache.serve.reader.server import serve
    from forecache.serve.reader.tokens import create_token, list_tokens, revoke_token
    from forecache.serve.reader.wire import Answer, RealtimeAnswer

__all__ = ["Answer", "AsyncClient", "Client", "RealtimeAnswer", "create_token", "list_tokens", "revoke_token", "serve"]

_HOMES = {
    "Answer": "wire",
    "AsyncClient": "client",
    "Client": "client",
    "RealtimeAnswer": "wire",
    "create_token": "tokens",
    "list_tokens": "tokens",
    "revoke_token": "tokens",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"forecache.serve.reader.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
