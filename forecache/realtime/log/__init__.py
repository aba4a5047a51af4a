"""The request log of real-time models: what was answered, from which features, versions and fallback, and how fast.

A row's way: `answer_log` takes an answer, `record` packs it, `spool_writer` hands it to a thread, which writes it into
segments (`spool_stream`, `spool_files`); `commit_loop`, in a process beside the reader, has `commit_segments` commit
them to the lake; `read` reads them there.
"""
