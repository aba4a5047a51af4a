"""The reader and the versions that it serves. Counters are sums over all workers since the reader started."""

from forecache.kit.metrics.metric import counter, gauge, histogram

REQUESTS = counter("forecache_reader_requests_total", "Answered requests.", "route", "status")
REQUEST_DURATION = histogram(
    "forecache_reader_request_duration_seconds",
    "Time from the start of a request's handler until its answer is sent.",
    "route",
)
HTTP_DURATION = histogram(
    "http_server_request_duration_seconds",
    "The same time by the names of OpenTelemetry's semantic conventions, in the same buckets.",
    "http_request_method",
    "http_route",
    "http_response_status_code",
)
IN_FLIGHT = counter(
    "forecache_reader_in_flight_seconds_total",
    "Time that requests were in flight, their wait for a worker included: its rate is the mean number in flight.",
)
START = gauge(
    "forecache_reader_start_seconds", "Time from the begin of the reader's process until all workers were ready."
)
HITS = counter("forecache_reader_hits_total", "Keys found.", "pipeline")
STALE_ANSWERS = counter("forecache_reader_stale_answers_total", "Keys found whose answer was stale.", "pipeline")
MISSES = counter("forecache_reader_misses_total", "Keys not found.", "pipeline")
SWAPS = counter("forecache_reader_swaps_total", "Versions swapped in, over all workers.", "pipeline")
SWAP_FAILURES = counter(
    "forecache_reader_swap_failures_total", "Versions that could not be opened, over all workers.", "pipeline"
)
DAMAGED = gauge(
    "forecache_reader_damaged",
    "1 while the published version is damaged: an earlier one is served, or none.",
    "pipeline",
)
VERSION = gauge(
    "forecache_reader_version", "Served store version; the lowest where workers differ for a moment.", "pipeline"
)
SWAP_DURATION = gauge(
    "forecache_reader_swap_seconds", "Time the slowest worker took to open and warm the served version.", "pipeline"
)
MAPPED = gauge(
    "forecache_reader_mapped_bytes", "Bytes of the served version's files, mapped once for all workers.", "pipeline"
)
AGE = gauge("forecache_reader_age_seconds", "Time since the midnight (UTC) that ended the as-of date.", "pipeline")
AGE_LIMIT = gauge(
    "forecache_reader_age_limit_seconds", "Age beyond which the declaration calls answers stale.", "pipeline"
)
FEATURE_FRESHNESS = gauge(
    "forecache_feature_freshness_seconds",
    "The same of feature views: how old the newest event in the served features may be.",
    "feature_view",
)
TOKEN_FILE_ERRORS = counter(
    "forecache_reader_token_file_errors_total", "Reloads of the token file that failed; the tokens before stay valid."
)
BODIES_REFUSED = counter(
    "forecache_reader_bodies_refused_total", "Bodies refused because those in progress took all the memory for bodies."
)
CONNECTIONS = gauge("forecache_reader_connections", "Open connections, counted each second.")
SILENT_CONNECTIONS_CLOSED = counter(
    "forecache_reader_silent_connections_closed_total", "Connections closed for being silent."
)
WORKERS = gauge("forecache_reader_workers", "Workers that are alive.")
WORKER_CRASHES = counter("forecache_reader_worker_crashes_total", "Workers that ended unexpectedly.")
DRAINING = gauge("forecache_reader_draining", "1 once the reader got a signal to stop.")
BUILD_INFO = gauge(
    "forecache_reader_build_info", "What is running; the value is 1.", "version", "code_version", "python"
)
