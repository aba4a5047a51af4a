"""The live layer: streamed rows above the published versions of a pipeline or view, shared by all versions.

It consists of two LMDB environments with one writer each and any number of readers. `live` has the newest rows of the
stream's table, up to one Delta version; `pending` has rows that an engine has computed and not yet committed. A row of
`pending` wins over one of `live`, and that one over the served version if its offset (the field `position`) is above
the cut-off (`cut`) of the version.
"""
