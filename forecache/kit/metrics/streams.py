"""Streams and their live layers, from the state of engines and tailers on the machine of `forecache metrics`.

`store` is the view, pipeline or stream whose store a live layer belongs to. Counters start at 0 again if a stream is
restarted.
"""

from forecache.kit.metrics.metric import counter, gauge

RUNNING = gauge("forecache_stream_running", "1 while a process runs the stream, else 0.", "stream")
STARTS = counter("forecache_stream_starts_total", "Times that the sensor started the stream.", "stream")
LAG = gauge(
    "forecache_stream_lag_events", "Events in a partition of the topic that are not committed.", "stream", "partition"
)
ROWS = counter("forecache_stream_rows_total", "Rows that were committed.", "stream")
BAD = counter("forecache_stream_bad_messages_total", "Messages that went to the quarantine.", "stream")
REPEATS = counter("forecache_stream_repeated_events_total", "Duplicate events that were dropped.", "stream")
LATE = counter(
    "forecache_stream_late_events_total", "Rows of days that an as-of date was already built from.", "stream"
)
DELAY = gauge(
    "forecache_stream_delay_seconds",
    "Time from an event until its row is committed: percentiles of the last minute; no sample where no event came.",
    "stream",
    "percentile",
)
DELAY_LIMIT = gauge("forecache_stream_delay_limit_seconds", "What the declaration allows (`max_lag_s`).", "stream")
LAST_COMMIT = gauge("forecache_stream_last_commit_timestamp_seconds", "When rows were committed last.", "stream")
COMMITTED_VERSION = gauge("forecache_stream_committed_version", "Version of the table after the last commit.", "stream")
RELEASE = gauge("forecache_stream_release", "Release of the real-time model that answers.", "stream")
SAID = gauge("forecache_stream_said_timestamp_seconds", "When the engine wrote these figures.", "stream")
LAYER_ROWS = gauge("forecache_live_rows", "Rows of a live layer.", "stream", "store")
LAYER_APPLIED = gauge("forecache_live_applied_version", "Version of the table that it holds.", "stream", "store")
LAYER_VERIFIED = gauge(
    "forecache_live_verified_version", "Version at which it was last found equal to the table.", "stream", "store"
)
LAYER_DIFFERED = counter(
    "forecache_live_differed_total", "Times that it was not equal to the table, and was rebuilt.", "stream", "store"
)
LAYER_VERIFIED_AT = gauge(
    "forecache_live_verified_timestamp_seconds", "When it was last found equal to the table.", "stream", "store"
)
LAYER_VERIFIED_UNTIL = gauge(
    "forecache_live_verified_until_timestamp_seconds",
    "When it counts as not verified; no sample while all that it holds was compared with the table.",
    "stream",
    "store",
)
LAYER_COMPARISON = gauge(
    "forecache_live_comparison_seconds", "Time that its last comparison with the table took.", "stream", "store"
)
