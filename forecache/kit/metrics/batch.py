"""Stages, stores, the gate and the figures of monitoring, read from the lake and the store by `forecache metrics`.

`subject` is the source, view, pipeline or table that a stage is about.
"""

from forecache.kit.metrics.metric import counter, gauge

MATERIALIZATIONS = counter(
    "forecache_batch_materializations_total",
    "As-of dates, or whole stages without dates, that were made; what was current and skipped does not count.",
    "stage",
    "subject",
)
LAST_SUCCESS = gauge(
    "forecache_batch_last_success_timestamp_seconds", "When the stage last made something.", "stage", "subject"
)
LAST_DURATION = gauge("forecache_batch_last_duration_seconds", "How long that took.", "stage", "subject")
LAST_ROWS = gauge("forecache_batch_last_rows", "Rows that it made.", "stage", "subject")
NEWEST_AS_OF = gauge(
    "forecache_batch_newest_as_of_timestamp_seconds",
    "The midnight (UTC) that ends the newest as-of date that the stage has made.",
    "stage",
    "subject",
)
STORE_VERSION = gauge("forecache_store_version", "Current version of the store.", "pipeline")
STORE_KEYS = gauge("forecache_store_keys", "Keys of the current version.", "pipeline")
STORE_BYTES = gauge("forecache_store_size_bytes", "Size of the current version's segments.", "pipeline")
STORE_SEGMENTS = gauge("forecache_store_segments", "Segments of the current version.", "pipeline")
STORE_PUBLISHED = gauge("forecache_store_published_timestamp_seconds", "When it was published.", "pipeline")
STORE_AS_OF = gauge(
    "forecache_store_as_of_timestamp_seconds", "The midnight (UTC) that ends its as-of date.", "pipeline"
)
STORE_STALE_AFTER = gauge(
    "forecache_store_stale_after_timestamp_seconds",
    "When it becomes older than its declaration allows; no value if its sources have ended.",
    "pipeline",
)
CHAMPION = gauge("forecache_gate_champion_version", "Version of the champion by the promotion ledger.", "pipeline")
GATE_PASSED = gauge(
    "forecache_gate_last_passed", "1 if the last model that the gate judged passed, else 0.", "pipeline"
)
GATE_DECISIONS = counter(
    "forecache_gate_decisions_total", "Decisions about who is champion.", "pipeline", "action", "verdict"
)
MONITORED_EFFECT = gauge(
    "forecache_monitoring_effect",
    "Effect of the newest as-of date: population stability index of a `feature` or `prediction`; of an `estimate` or "
    "`performance` how much worse the metric is than on the test split.",
    "pipeline",
    "kind",
    "name",
    "reference",
)
MONITORED_VALUE = gauge(
    "forecache_monitoring_value", "The metric itself, expected (`estimate`) or realised.", "pipeline", "kind", "name"
)
MONITORED_LOW = gauge(
    "forecache_monitoring_effect_low", "Lower end of the effect's 95 percent band.", "pipeline", "kind", "name"
)
MONITORED_HIGH = gauge("forecache_monitoring_effect_high", "Upper end of that band.", "pipeline", "kind", "name")
MONITORED_NIGHT = gauge(
    "forecache_monitoring_as_of_timestamp_seconds",
    "The midnight (UTC) that ends the newest as-of date that was measured.",
    "pipeline",
    "kind",
)
EXPORTED = gauge("forecache_batch_exported_timestamp_seconds", "When these figures were read.")
