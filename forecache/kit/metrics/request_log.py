"""The request log of real-time models: the workers that write it to the spool, and the committer that empties that."""

from forecache.kit.metrics.metric import counter, gauge

ROWS = counter("forecache_request_log_rows_total", "Answers that were taken to be logged.", "model")
ROWS_LOST = counter(
    "forecache_request_log_rows_lost_total",
    "Answers of the sample that are not in the log, by the reason; after a kill it may count some that are.",
    "model",
    "reason",
)
MEMORY_ROWS = gauge("forecache_request_log_memory_rows", "Answers in the memory of workers.", "model")
SPOOL_BYTES = gauge("forecache_request_log_spool_bytes", "Size of what waits on the disk for the committer.", "model")
SPOOL_AGE = gauge(
    "forecache_request_log_spool_age_seconds",
    "Time since the oldest segment that waits was last written; 0 where none waits.",
    "model",
)
COMMITS = counter("forecache_request_log_commits_total", "Commits of the log to the lake.", "model")
ROWS_COMMITTED = counter("forecache_request_log_rows_committed_total", "Rows that reached the lake.", "model")
COMMIT_DELAY = gauge(
    "forecache_request_log_commit_delay_seconds",
    "Time from the newest answer of the last commit until it was in the lake.",
    "model",
)
LAST_COMMIT = gauge(
    "forecache_request_log_last_commit_timestamp_seconds", "When the log was committed last, in Unix time.", "model"
)
FAILING = gauge("forecache_request_log_commit_failing", "1 while the log cannot be committed, 0 while it can.", "model")
