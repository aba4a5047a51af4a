"""Live drift of a real-time model's features and scores against its training data, from a sample of the answers.

The column is the name of a feature, or `score`. Gauges are of the last one to two windows
(`FORECACHE_READER_DRIFT_WINDOW_S`); with fewer than 300 counted requests in them they have no sample.
"""

from forecache.kit.metrics.metric import counter, gauge

REQUESTS_COUNTED = counter("forecache_drift_requests_counted_total", "Answers that were counted.", "model")
ROWS_COUNTED = counter("forecache_drift_rows_counted_total", "Candidates, or values, that were counted.", "model")
COUNTING = counter("forecache_drift_counting_seconds_total", "Time that counting took.", "model")
BIN_ROWS = counter(
    "forecache_drift_bin_rows_total",
    "Counted rows by bin: `0` and up as in the training data, `below` and `above` its range, `null` for no number.",
    "model",
    "column",
    "bin",
)
BIN_REFERENCE = gauge(
    "forecache_drift_bin_reference_ratio", "Share of the training data's rows in a bin.", "model", "column", "bin"
)
WINDOW_REQUESTS = gauge("forecache_drift_window_requests", "Counted answers in the window.", "model")
PSI = gauge(
    "forecache_drift_psi",
    "Population stability index to the training data: below 0.1 stable, above 0.25 a shift.",
    "model",
    "column",
)
JS = gauge(
    "forecache_drift_js_distance",
    "Jensen-Shannon distance to the training data: 0 where equal, 1 where nothing overlaps.",
    "model",
    "column",
)
NULL_RATIO = gauge("forecache_drift_null_ratio", "Share of rows without a number.", "model", "column")
NULL_REFERENCE = gauge(
    "forecache_drift_null_reference_ratio", "Share of the training data's rows without a number.", "model", "column"
)
OUT_OF_RANGE = gauge(
    "forecache_drift_out_of_range_ratio",
    "Share of rows below the smallest or above the largest value of the training data.",
    "model",
    "column",
)
