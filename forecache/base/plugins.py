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
    """Additions of a plug-in. Each value names an attribute of a module in its folder, as "module:attribute"."""

    commands: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # such as "store diff", with the line of help
    checks: Mapping[str, str] = field(default_factory=dict)  # of `doctor`: functions of settings, returning a `Finding`
    hooks: Mapping[str, str] = field(default_factory=dict)  # whatever else the rest asks for by name, with `load_hook`


PLUGINS = {
    "alerts": Plugin(
        commands={"alerts": ("command:alerts", "Check for problems, and notify receivers of new ones.")},
        checks={"alerts": "command:check_alerts"},
        hooks={
            "notify": "notify:notify",
            "current_alerts": "journal:current_alerts",
            "noted_alerts": "journal:read_noted_alerts",
            "report_run": "notify:report_run",
            "orchestration": "orchestration:build_definitions",
        },
    ),
    "backfill": Plugin(
        hooks={"backfill_days": "backfill:backfill_days", "recompute_table": "backfill:recompute_table"}
    ),
    "challengers": Plugin(
        commands={
            "challenge": ("command:challenge", "Choose a version to score together with the champion."),
            "shadow": ("command:shadow", "Score an as-of date with champion and challenger, and compare them."),
        },
        hooks={
            "score_challenger": "shadow:score_challenger",
            "orchestration": "orchestration:build_definitions",
            "score_check_specs": "orchestration:challenger_specs",
            "score_check_events": "orchestration:check_challenger",
        },
    ),
    "cost": Plugin(
        commands={
            "advise": ("advise_command:advise", "Recommend settings from measured use, with what they save."),
            "cost": ("command:cost", "Daily cost of stages, training, storage and servers."),
            "simulate autoscale": ("autoscale_command:autoscale", "Replicas by demand against a fixed number of them."),
        },
        hooks={"orchestration": "orchestration:build_definitions", "cost_lines": "cost_report:lines_of"},
    ),
    "diff": Plugin(commands={"diff": ("command:diff", "What differs between two environments, dates or versions.")}),
    "doctor": Plugin(
        commands={"doctor": ("command:doctor", "Check what Forecache needs, with a remedy for each problem.")}
    ),
    "drift": Plugin(
        commands={
            "monitor": ("command:monitor", "Drift, realised performance, and whether to train again."),
            "drift": ("command:drift", "Show how far an as-of date's scores have moved."),
        },
        hooks={
            "batch_metrics": "measurements:add_metrics",
            "measurements": "measurements:measurements",
            "live_bins": "feature_drift:live_bins",
            "drift_reference": "live_counts:read_reference",
            "open_watch": "live_counts:open_watch",
            "add_live_drift": "live_metrics:add_live_drift",
            "live_drift_of": "live_metrics:drift_of",
            "check_scores": "prediction_drift:require_no_drift",
            "report_scores": "sampled_report:report_scores",
            "asks_for_training": "retraining:asks_for_training",
            "output_bins": "bins:output_bins",
            "segment_rows": "bins:segment_rows",
            "orchestration": "orchestration:build_definitions",
            "nightly_assets": "orchestration:list_nightly_assets",
            "score_check_specs": "orchestration:score_check_specs",
            "score_check_events": "orchestration:check_scores",
            "evaluate": "calibration:evaluate",
        },
    ),
    "estimators": Plugin(
        hooks={
            "plan_training": "fit:plan_training",
            "runtimes": "runtimes:RUNTIMES",
            "log_file": "runtimes:log_file",
            "load_skops": "skops_files:load_skops",
        }
    ),
    "explain": Plugin(
        commands={"explain": ("command:explain", "Explain an answer: features, model, data and code.")},
        hooks={
            "explained_parts": "command:explained_parts",
            "find_explanation": "command:find_explanation",
            "explain_prediction": "pipeline_contributions:explain_prediction",
            "open_current_release": "current_answer:open_current_release",
        },
    ),
    "exporter": Plugin(commands={"metrics": ("command:metrics", "Every metric for Prometheus, and what it says.")}),
    "historical_features": Plugin(
        commands={"features": ("command:features", "Point-in-time features for a table of keys and times.")},
        hooks={"build_examples": "training_set:build_examples", "orchestration": "orchestration:build_definitions"},
    ),
    "lineage": Plugin(
        commands={"lineage": ("command:lineage", "Send OpenLineage events of what stages have recorded.")},
        hooks={"report_stream_run": "stream_runs:report_run", "around_stage": "stages:send_lineage"},
    ),
    "mail": Plugin(
        commands={"mail": ("command:mail", "Send a mailing's messages about what is published.")},
        checks={"mail": "command:check_mail"},
        hooks={"orchestration": "orchestration:build_definitions"},
    ),
    "new_project": Plugin(
        commands={
            "init": ("init_command:init", "Create a new project from a template."),
            "demo": ("demo_command:demo", "Run the main job on demo data, from files to a served answer."),
        },
        hooks={"reader_process": "reader_process:ReaderProcess"},
    ),
    "maintenance": Plugin(
        commands={"maintain": ("command:maintain", "Merge the lake's small files, remove files that nothing needs.")},
        hooks={"orchestration": "orchestration:build_definitions", "remove_unused_files": "table:remove_unused_files"},
    ),
    "model_reports": Plugin(
        hooks={
            "evaluate": "evaluation:evaluate",
            "draw_evaluation": "plots:draw_evaluation",
            "draw_verdict": "plots:draw_verdict",
            "write_model_report": "report:write_report",
        }
    ),
    "parity": Plugin(
        commands={"parity": ("command:parity", "Replay logged answers, to find training-serving skew.")},
        hooks={"orchestration": "orchestration:build_definitions"},
    ),
    "plan": Plugin(
        commands={"plan": ("command:plan", "What a run would do, why, and what it would take.")},
        hooks={"compare_inputs": "causes:compare_inputs", "show_plan": "command:show_plan"},
    ),
    "protocols": Plugin(
        commands={"release bento": ("write_bento:bento", "Write a BentoML service for a release.")},
        hooks={
            "feast": "feast:answer_request",
            "open_inference": "open_inference:InferenceProtocol",
            "mlflow": "mlflow:MlflowProtocol",
        },
    ),
    "recommend": Plugin(
        hooks={
            "recommend": "stage:recommend",
            "refused_dates": "stage:refused_dates",
            "write_report": "evaluation.report:write_report",
            "orchestration": "orchestration:build_definitions",
        }
    ),
    "redis": Plugin(
        hooks={
            "open_store": "versions:open_redis_store",
            "source": "reader:RedisSource",
            "read_remote": "realtime_lookups:read_remote",
        }
    ),
    "rollouts": Plugin(
        commands={
            "release rollouts": ("command:rollouts", "Move rollouts on, or return them, by the request log."),
            "release pause": ("command:pause", "Leave a rollout at its step."),
            "release resume": ("command:resume", "Go on with a paused rollout."),
            "release return": ("command:return_", "Return the candidate; the current release answers all."),
            "release finish": ("command:finish", "Let the candidate answer all requests now."),
            "simulate rollout": ("simulate_command:rollout", "How many requests it takes until a harm is found."),
        },
        checks={"rollouts": "command:check_rollouts"},
        hooks={
            "notify_of_rollout": "controller:notify_of_rollout",
            "show_rollout": "command:show_rollout",
            "rollout_follower": "follow_rollouts:RolloutFollower",
            "immediate_release_reason": "controller:immediate_release_reason",
            "start_rollout": "controller:start_rollout",
            "blind_spot_warning": "controller:blind_spot_warning",
            "watch": "command:watch",
            "orchestration": "orchestration:build_definitions",
        },
    ),
    "score_cache": Plugin(
        hooks={
            "cached_path": "cached_path:CachedPath",
            "key": "cached_path:score_cache_key",
            "entry_bytes": "cached_path:ENTRY_BYTES",
        }
    ),
    "spark_stream": Plugin(hooks={"engine": "engine:SparkEngine"}),
    "status": Plugin(
        commands={
            "status": ("command:status", "Health of the server and of the project."),
            "report": ("report_command:report", "A page on a pipeline, model, stream or recommender."),
        },
        hooks={
            "reader_sidecar": "sidecar:run_status_sidecar",
            "reader_history_bytes": "history:HISTORY_BYTES",
            "status_pages": "pages:make_status_pages",
        },
    ),
    "store_checks": Plugin(
        commands={
            "store diff": ("command:diff", "Changes between two published versions."),
            "store verify": ("command:verify", "Read every byte and compare it with what was published."),
        },
        hooks={"check_bytes": "verify_stores:check_bytes", "orchestration": "orchestration:build_definitions"},
    ),
    "stream_answers": Plugin(
        hooks={"answerer_of": "batch_answers:answerer_of", "send_answers": "send_answers:send_answers"}
    ),
    "table_sources": Plugin(
        hooks={
            "pin_table": "parquet_files:pin_table",
            "as_of_rows": "table_rows:as_of_rows",
            "night_rows": "table_rows:night_rows",
            "existing_table_rows": "table_rows:existing_table_rows",
            "days_to_extract": "days_to_extract:days_to_extract",
            "extraction_delay_reason": "days_to_extract:extraction_delay_reason",
            "extract": "extract:extract",
            "require_database": "database:require_database",
        }
    ),
    "torch": Plugin(
        hooks={
            "plan_training": "launch:plan_training",
            "run_torchrun": "launch:run_torchrun",
            "num_gpus": "launch:num_gpus",
        }
    ),
    "trials": Plugin(
        commands={
            "try": ("command:try_pipelines", "Run changed pipelines in a trial, which touches no other environment."),
            "trials": ("command:trials", "Trials of an environment: list, remove."),
        },
        hooks={
            "adopt_partitions": "adopt:adopt_partitions",
            "adopt_table": "adopt:adopt_table",
            "find_equal_training": "adopt:find_equal_training",
        },
    ),
    "tune": Plugin(
        commands={"tune": ("command:tune", "Search for better hyperparameters.")},
        hooks={"orchestration": "orchestration:build_definitions"},
    ),
    "window_features": Plugin(
        hooks={
            "window_frame": "nights:window_frame",
            "window_rows": "nights:window_rows",
            "window_inputs": "nights:window_inputs",
            "write_windows": "nights:write_windows",
            "find_stale_tiles": "nights:find_stale_tiles",
        }
    ),
}


def load_hook(plugin: str, name: str) -> Any:
    """Return what a plug-in adds under a name of its `hooks`; UnavailableError if it is not installed."""
    require_plugin(plugin)
    return _load(plugin, PLUGINS[plugin].hooks[name])


def require_plugin(plugin: str) -> None:
    """Refuse to go on without a plug-in, by UnavailableError."""
    if not is_installed(plugin):
        raise UnavailableError(
            f"This installation of Forecache has no plug-in {plugin!r}.",
            remedy=f"Install Forecache with its folder forecache/plugins/{plugin}.",
        )


def find_hooks(name: str) -> Iterator[Any]:
    """Yield what each plug-in that is installed adds under a name of its `hooks`, in the order of `PLUGINS`."""
    for plugin, added in PLUGINS.items():
        if name in added.hooks and is_installed(plugin):
            yield _load(plugin, added.hooks[name])


def find_commands(group: str = "") -> dict[str, tuple[str, str]]:
    """The commands in a group, or at the top, of all installed plug-ins: name -> ("module:attribute", help)."""
    return {
        name.split()[-1]: (f"forecache.plugins.{plugin}.{place}", text)
        for plugin, added in PLUGINS.items()
        if is_installed(plugin)
        for name, (place, text) in added.commands.items()
        if name.rpartition(" ")[0] == group
    }


def find_checks() -> Iterator[tuple[str, Any]]:
    """The checks of all plug-ins that are installed, by name."""
    for plugin, added in PLUGINS.items():
        if is_installed(plugin):
            yield from ((name, _load(plugin, place)) for name, place in added.checks.items())


@cache
def is_installed(plugin: str) -> bool:
    return importlib.util.find_spec(f"forecache.plugins.{plugin}") is not None


def _load(plugin: str, place: str) -> Any:
    module, attribute = place.split(":")
    return getattr(importlib.import_module(f"forecache.plugins.{plugin}.{module}"), attribute)
