"""The live layer: streamed rows that lie above the versions of a pipeline or view, and are shared by all of them.

Two LMDB environments with one writer each and any number of readers: `live` holds what the stream's table holds, up to
one Delta version; `pending` holds rows that an engine has computed and not yet committed. A row of `pending` wins
over one of `live`, and a row of `live` over the served version where its position is above the version's cut.
"""
