"""Status documents as a reader makes them, for the tests of what shows them."""

from typing import Any

from forecache.plugins.status.history import STEP_S
from forecache.serve.reader.worker_metrics import BUCKETS


def in_bucket(bucket: int, number: int) -> list[int]:
    return [number if place == bucket else 0 for place in range(BUCKETS)]


def version_row(**more: Any) -> dict[str, Any]:
    return {
        "name": "churn", "state": "served", "kind": "pipeline", "version": 7, "model": {"name": "churn", "version": 3},
        "keys": 2357, "as_of": "2026-11-26", "published_at": "2026-11-27T01:04:10Z", "age_s": 9000, "max_age_h": 36.0,
        "on_stale": "flag", "stale": False, "refused": False, "overdue": False, "source_end": None,
        "fallback_for": None, "size_bytes": 123456,
        "carried_forward": 0, "old_publish": False, "keys_per_s": 12.5, "found_share": 0.999, "keys_found": 10,
        "keys_not_found": 1, **more,
    }  # fmt: skip


def model_row(**more: Any) -> dict[str, Any]:
    return {
        "name": "search", "state": "served", "release": 3, "created_at": "2026-11-27T01:04:10Z",
        "model": {"name": "search", "version": 2}, "deadline_ms": 50.0, "runs": "loop",
        "fallbacks": ["model", "order_given"], "cached": True, "releases": [3], "per_s": 120.0, "window_s": 300.0,
        "answers": 1000, "p50_us": 300.0, "p90_us": 500.0, "p99_us": 900.0, "p999_us": 2000.0, "in_time": 990,
        "late": 1,
        "flagged": 0, "answered_by_counts": {"model": 9900, "order_given": 100}, "fallback_reasons": {"deadline": 9},
        "stages_us": {"parse": 20.0},
        "cache_hit_share": 0.25, "cache_bytes": 1 << 20, "processes": 0, "processes_replaced": 0, "breaker_open": 0,
        "answers_since_start": 5000, "series": {"per_s": [1.0] * 20},
        "log": {"taken": 1000, "committed": 990, "lost": {"disk": 3}, "in_memory": 7, "spool_bytes": 4096,
                "spool_age_s": 1.0, "commit_delay_s": 2.0, "committed_s_ago": 3.0, "failing_s": 0.0},
        "drift": [{"column": "price", "psi": 0.12, "null_share": 0.0, "out_of_range_share": 0.1},
                  {"column": "spend", "psi": 0.04, "null_share": 0.0, "out_of_range_share": 0.0}],
        "rollout": None, **more,
    }  # fmt: skip


def stream_row(**more: Any) -> dict[str, Any]:
    return {
        "name": "cards", "topic": "card-payments", "engine": "arrow", "freshness": "event", "state": "runs",
        "lag_events": 1312, "rows": 90_000, "rows_per_s": 2004.2, "delay_p50_s": 0.0061, "delay_p99_s": 0.142,
        "committed_version": 4711, "committed_s_ago": 0.6, "bad": 3, "repeats": 1, "late": 2, "release": 4, "starts": 1,
        "last_error": "", "not_well": [], "layers": [
            {"store": "customer", "rows": 4987, "applied": 4711, "verified_through": 4700, "verified_s_ago": 41.0},
            {"store": "terminal", "rows": 9000, "applied": 4708, "verified_through": -1, "verified_s_ago": None},
            {"store": "cards", "rows": 0, "applied": -1, "verified_through": -1, "verified_s_ago": None}],
        **more,
    }  # fmt: skip


def document(**more: Any) -> dict[str, Any]:
    at = [1_790_000_000.0 + STEP_S * step for step in range(5)]
    return {
        "at": "2026-09-21T13:33:28Z", "ready": True, "state": "well", "attention": [],
        "reader": {"version": "0.1", "code_version": "", "python": "3.12", "uptime_s": 4000, "draining": False,
                   "workers": {"wanted": 2, "alive": 2, "restarts": 0, "restarted_s_ago": None, "processes": [
                       {"pid": 17, "state": "ready", "requests": 5, "memory_bytes": 5_000_000}]},
                   "memory_bytes": 5_000_000, "connections": 3, "bodies_refused": 0, "token_file_errors": 0},
        "traffic": {"per_s": 100.0, "window_s": 300.0, "requests": 30000, "client_errors": 3, "server_errors": 0,
                    "p50_us": 80.0, "p90_us": 120.0, "p99_us": 400.0, "p999_us": 2100.0, "buckets": in_bucket(7, 9),
                    "since_start": {}, "step_s": STEP_S,
                    "series": {"at_s": at, "per_s": [1.0, 2.0, 3.0, 4.0, 5.0], "failed_per_s": [0.0] * 5,
                               "p50_us": [0, 80, 80, 0, 90], "p99_us": [0, 400, 410, 0, 500]}},
        "versions": [version_row()], "models": [model_row()],
        "nights": {"rows": [], "why": "The stage ledger is not here."}, "alerts": [], "streams": [], **more,
    }  # fmt: skip
