"""Real-time models, by model. Counters are sums over all workers of the reader."""

from forecache.kit.metrics.metric import counter, gauge, histogram

ANSWERS = counter("forecache_realtime_answers_total", "Answered requests.", "model")
IN_TIME = counter(
    "forecache_realtime_in_time_answers_total", "Answers that the model gave before their deadline.", "model"
)
LATE = counter("forecache_realtime_late_answers_total", "Answers that were not ready before their deadline.", "model")
FLAGGED = counter(
    "forecache_realtime_flagged_answers_total",
    "Answers of a model whose views are not those it was trained with.",
    "model",
)
ITEMS = counter(
    "forecache_realtime_items_total", "Scored candidates, or values, by the rung that they come from.", "model", "rung"
)
WITHOUT_MODEL = counter(
    "forecache_realtime_without_model_total", "Answers without the model, by the reason.", "model", "why"
)
STAGE_SECONDS = counter("forecache_realtime_stage_seconds_total", "Time of answers by their stage.", "model", "stage")
ANSWER_DURATION = histogram(
    "forecache_realtime_answer_seconds", "Time from the arrival of a request until its answer is written.", "model"
)
SWAPS = counter("forecache_realtime_swaps_total", "Releases swapped in, over all workers.", "model")
SWAP_FAILURES = counter(
    "forecache_realtime_swap_failures_total", "Releases that could not be loaded, over all workers.", "model"
)
RELEASE = gauge(
    "forecache_realtime_release",
    "Number of the release that answers; the lowest where workers differ for a moment.",
    "model",
)
DAMAGED = gauge(
    "forecache_realtime_damaged",
    "1 while the current release is damaged: an earlier one answers, or none.",
    "model",
)
RUNS_IN_LOOP = gauge(
    "forecache_realtime_runs_in_loop",
    "1 where the model runs on the event loop, 0 in processes of its own.",
    "model",
)
