"""The plug-ins: capabilities that can be left out, each a folder of `forecache/plugins/`, and what each adds.

Nothing outside a plug-in's folder imports it: it is reached by the names below, whose modules are imported at first
use. Without the folder, everything else works.
"""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from forecache.base.errors import UnavailableError


@dataclass(frozen=True)
class Plugin:
    """Additions of a plug-in. Each value names an attribute of a module in its folder, as "module:attribute".

    Attributes:
        commands: Commands of `forecache` by name, each with its line of help.
        simulations: The same for `forecache simulate`.
        checks: Checks of `forecache doctor`: functions of the settings that return a `Finding`.
        hooks: Whatever else the rest asks for by name, with `load_hook`.
    """

    commands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    simulations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    checks: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[str, str] = field(default_factory=dict)


PLUGINS = {
    "alerts": Plugin(
        commands={
            "alerts": ("command:alerts", "Look for what is wrong, and tell what is new."),
        },
        checks={"alerts": "command:check_alerts"},
        hooks={
            "list_open_alerts": "journal:list_open_alerts",
            "read_cursor": "journal:read_cursor",
            "has_receivers": "receivers:has_alert_receivers",
            "collect_and_notify": "collect_alerts:collect_and_notify",
            "describe_failures": "notify:describe_failures",
            "notify": "notify:notify",
            "current_alerts": "journal:current_alerts",
            "noted_alerts": "journal:read_noted_alerts",
        },
    ),
    "backfill": Plugin(
        hooks={
            "backfill_days": "stream_tables:backfill_days",
            "recompute_table": "stream_tables:recompute_table",
        },
    ),
    "cost": Plugin(
        commands={
            "advise": ("advise_command:advise", "What to set differently, from measured use, and what it saves."),
            "cost": ("command:cost", "What stages, training, storage and replicas cost a day."),
        },
        simulations={
            "autoscale": ("autoscale_command:autoscale", "Replicas by demand against a fixed number of them."),
        },
        hooks={
            "report": "cost_report:cost_report",
            "plot": "cost_report:plot_costs",
            "parts": "cost_line:PARTS",
        },
    ),
    "drift": Plugin(
        commands={
            "monitor": ("command:monitor", "Drift, realised performance, and whether to train again."),
            "drift": ("command:drift", "Show how far an as-of date's scores have moved."),
        },
        hooks={
            "write_drift_report": "sampled_report:write_drift_report",
            "monitor_log": "log_monitoring:monitor_log",
            "measurements": "measurements:measurements",
            "monitor": "monitor:monitor",
            "retraining_decision": "retraining:retraining_decision",
            "batch_metrics": "measurements:add_metrics",
            "live_bins": "feature_drift:live_bins",
            "check_scores": "prediction_drift:check_drift",
            "asks_for_training": "retraining:asks_for_training",
            "output_bins": "bins:output_bins",
            "segment_rows": "bins:segment_rows",
        },
    ),
    "explain": Plugin(
        commands={
            "explain": ("command:explain", "Follow an answer back to its data, model and code."),
        },
    ),
    "historical_features": Plugin(
        commands={
            "features": ("command:features", "Features of any table of keys and times, as known then."),
        },
        hooks={
            "build_examples": "training_set:build_examples",
        },
    ),
    "lineage": Plugin(
        commands={
            "lineage": ("command:lineage", "Send OpenLineage events of what stages have recorded."),
        },
        hooks={
            "fact": "fact:Fact",
            "emit_failure": "emit:emit_failure",
            "emit_new": "emit:emit_new",
            "report_stream_run": "stream_runs:report_run",
        },
    ),
    "mail": Plugin(
        commands={
            "mail": ("command:mail", "Send a mailing's messages about what is published."),
        },
        checks={"mail": "command:check_mail"},
        hooks={
            "mail": "stage:mail",
        },
    ),
    "maintenance": Plugin(
        commands={
            "maintain": ("command:maintain", "Merge the lake's small files, remove files that nothing needs."),
        },
        hooks={
            "maintain_lake": "lake:maintain_lake",
            "remove_unused_files": "table:remove_unused_files",
        },
    ),
    "parity": Plugin(
        commands={
            "parity": ("command:parity", "Compute logged answers again, and compare every bit."),
        },
        hooks={
            "check_parity": "replay:check_parity",
        },
    ),
    "protocols": Plugin(
        commands={
            "bento": ("command:bento", "Write a BentoML service for a release of a real-time model."),
        },
        hooks={
            "feast": "feast:answer_request",
            "open_inference": "open_inference.protocol:InferenceProtocol",
            "mlflow": "mlflow:MlflowProtocol",
        },
    ),
    "recommend": Plugin(
        hooks={
            "recommend": "stage:recommend",
            "refused_dates": "stage:refused_dates",
            "write_report": "evaluation.report:write_report",
        },
    ),
    "redis": Plugin(
        hooks={
            "open_store": "versions:open_redis_store",
            "source": "reader:RedisSource",
            "read_remote": "realtime_lookups:read_remote",
        },
    ),
    "rollouts": Plugin(
        commands={
            "rollouts": ("command:rollouts", "Move rollouts of releases on, or return them, by the request log."),
            "rollout": ("command:rollout", "Pause, resume, return or finish the rollout of a release."),
        },
        simulations={
            "rollout": ("simulate_command:rollout", "How many requests it takes until a harm is found."),
        },
        checks={"rollouts": "command:check_rollouts"},
        hooks={
            "advance_rollout": "controller:advance_rollout",
            "running_rollouts": "controller:running_rollouts",
            "begin_counts": "count_requests:begin_counts",
            "logged_version": "count_requests:logged_version",
            "notify_of_rollout": "controller:notify_of_rollout",
            "rollout_dict": "command:rollout_dict",
            "show_rollout": "command:show_rollout",
            "watch": "command:watch",
        },
    ),
    "spark_stream": Plugin(
        hooks={
            "engine": "engine:SparkEngine",
        },
    ),
    "status": Plugin(
        commands={
            "status": ("command:status", "How the reader and the project are, and what is not well."),
        },
        hooks={
            "reader_sidecar": "sidecar:run_status_sidecar",
            "status_pages": "pages:StatusPages",
        },
    ),
    "table_sources": Plugin(
        hooks={
            "pin_table": "parquet_files:pin_table",
            "as_of_rows": "table_rows:as_of_rows",
            "existing_table_rows": "table_rows:existing_table_rows",
            "days_to_extract": "days_to_extract:days_to_extract",
            "extraction_delay_reason": "days_to_extract:extraction_delay_reason",
            "extract": "extract:extract",
            "require_database": "database:require_database",
        },
    ),
    "torch": Plugin(),
    "tune": Plugin(
        commands={
            "tune": ("command:tune", "Search for better hyperparameters."),
        },
        hooks={
            "tune": "search:tune",
        },
    ),
}


def load_hook(plugin: str, name: str) -> Any:
    """Return what a plug-in adds under a name of its `hooks`.

    Raises:
        UnavailableError: This installation has no such plug-in.
    """
    if not is_installed(plugin):
        raise UnavailableError(
            f"This installation of Forecache has no plug-in {plugin!r}.",
            remedy=f"Install Forecache with its folder forecache/plugins/{plugin}.",
        )
    return _load(plugin, PLUGINS[plugin].hooks[name])


def find_hooks(name: str) -> Iterator[Any]:
    """Yield what each plug-in that is installed adds under a name of its `hooks`, in the order of `PLUGINS`."""
    for plugin, added in PLUGINS.items():
        if name in added.hooks and is_installed(plugin):
            yield _load(plugin, added.hooks[name])


def find_commands(group: str = "commands") -> dict[str, tuple[str, str]]:
    """The commands of all plug-ins that are installed: name -> ("module:attribute", help)."""
    return {
        name: (f"forecache.plugins.{plugin}.{place}", text)
        for plugin, added in PLUGINS.items()
        if is_installed(plugin)
        for name, (place, text) in getattr(added, group).items()
    }


def find_checks() -> Iterator[tuple[str, Any]]:
    """The checks of all plug-ins that are installed, by name."""
    for plugin, added in PLUGINS.items():
        if is_installed(plugin):
            yield from ((name, _load(plugin, place)) for name, place in added.checks.items())


@cache
def is_installed(plugin: str) -> bool:
    """Return whether the plug-in's folder is there."""
    return importlib.util.find_spec(f"forecache.plugins.{plugin}") is not None


def _load(plugin: str, place: str) -> Any:
    module, attribute = place.split(":")
    return getattr(importlib.import_module(f"forecache.plugins.{plugin}.{module}"), attribute)
