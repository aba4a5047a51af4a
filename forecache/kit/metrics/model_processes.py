"""Real-time models in processes of their own, their circuit breaker, their cache and their reads of remote stores."""

from forecache.kit.metrics.metric import counter, gauge, histogram

PROCESSES = gauge(
    "forecache_realtime_model_processes", "Warm model processes, spares included, over all workers.", "model"
)
STARTED = counter("forecache_realtime_model_processes_started_total", "Model processes that were started.", "model")
TEMPLATES_STARTED = counter(
    "forecache_realtime_templates_started_total",
    "Templates that were started: processes that import what a model needs, and copy themselves into model processes.",
    "model",
)
TEMPLATE_FAILURES = counter(
    "forecache_realtime_template_failures_total",
    "Templates that did not start in time, ended, were stopped, or hung.",
    "model",
)
REPLACED = counter(
    "forecache_realtime_model_processes_replaced_total",
    "Model processes that were replaced, by the cause: crashed, hung, stopped, memory or start.",
    "model",
    "cause",
)
ABANDONED = counter(
    "forecache_realtime_abandoned_total",
    "Requests that were given up at their deadline while a model process had them.",
    "model",
)
HANDED_ON = counter(
    "forecache_realtime_handed_on_total",
    "Requests that a failed model process had not begun, and that another one got.",
    "model",
)
BATCH_REQUESTS = histogram(
    "forecache_realtime_batch_requests", "Requests in a call of a model in a process of its own.", "model"
)
BREAKER_OPEN = gauge("forecache_realtime_breaker_open", "Workers whose circuit breaker is open.", "model")
BREAKER_OPENED = counter("forecache_realtime_breaker_opened_total", "Times that the circuit breaker opened.", "model")
BREAKER_REFUSED = counter(
    "forecache_realtime_breaker_refused_total",
    "Requests that were answered without the model because the circuit breaker was open.",
    "model",
)
CACHE_HITS = counter("forecache_realtime_cache_hits_total", "Requests whose scores were in the cache.", "model")
CACHE_JOINED = counter(
    "forecache_realtime_cache_joined_total",
    "Requests that waited for the scores of an equal one under way.",
    "model",
)
CACHE_MISSES = counter("forecache_realtime_cache_misses_total", "Requests whose scores were not in the cache.", "model")
CACHE_BYTES = gauge("forecache_realtime_cache_bytes", "Memory of cached scores, over all workers.", "model")
CACHE_SAVED = counter(
    "forecache_realtime_cache_saved_seconds_total", "Time that cached scores would have taken to compute.", "model"
)
HEDGED_READS = counter(
    "forecache_realtime_hedged_reads_total", "Reads of a remote store that were sent a second time.", "model"
)
HEDGES_WON = counter("forecache_realtime_hedges_won_total", "Second reads that were answered first.", "model")
LATE_READS = counter(
    "forecache_realtime_late_reads_total", "Reads of a remote store that were given up at the deadline.", "model"
)
