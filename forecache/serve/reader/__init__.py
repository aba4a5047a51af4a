"""The thin online reader: an HTTP server for the precompute store, and its client.

It depends on the store and nothing heavier. Names are imported at first use, so that a server worker does not load the
client's HTTP library, nor a client the server.
"""

from typing import TYPE_CHECKING

from forecache.base.lazy_names import list_homes, load_lazily

if TYPE_CHECKING:
    from forecache.serve.reader.client import AsyncClient as AsyncClient
    from forecache.serve.reader.client import Client as Client
    from forecache.serve.reader.server import serve as serve
    from forecache.serve.reader.tokens import create_token as create_token
    from forecache.serve.reader.tokens import list_tokens as list_tokens
    from forecache.serve.reader.tokens import revoke_token as revoke_token
    from forecache.serve.reader.wire import Answer as Answer
    from forecache.serve.reader.wire import RealtimeAnswer as RealtimeAnswer

_HOMES = list_homes(
    {
        "forecache.serve.reader.client": "AsyncClient Client",
        "forecache.serve.reader.server": "serve",
        "forecache.serve.reader.tokens": "create_token list_tokens revoke_token",
        "forecache.serve.reader.wire": "Answer RealtimeAnswer",
    }
)
__all__ = sorted(_HOMES)
__getattr__ = load_lazily(__name__, _HOMES)
