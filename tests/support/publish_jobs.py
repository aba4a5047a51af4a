"""A publish in a process of its own, which kills itself at a step."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_tables import OPEN_RULES, churn
from view_tables import household
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import publish_step
from forecache.serve.store import publish
from forecache.serve.store.publishing import worker_pool
from forecache.serve.store.segment import writer


def start_publish(settings: Settings, step: str, **how: Any) -> Any:
    """Start it; `how` as `publish_until` has it."""
    return start(publish_until, settings.home_path, step, how)


def killed_publish(settings: Settings, step: str, **how: Any) -> None:
    """Publish until the process has killed itself at the step."""
    process = start_publish(settings, step, **how)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def publish_until(home: Path, step: str, how: dict[str, Any]) -> None:
    """Publish, and die at a step, "": at none.

    Args:
        how: `name` of what is published, `full`, `remote`, and at wish other limits: `shard_rows`, `inline_rows`,
            `max_segments`.
    """

    def kill(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    publish_step.on_step = kill
    writer.SHARD_ROWS = how.get("shard_rows", writer.SHARD_ROWS)
    worker_pool.INLINE_ROWS = how.get("inline_rows", worker_pool.INLINE_ROWS)
    rules = replace(OPEN_RULES, max_segments=how.get("max_segments", OPEN_RULES.max_segments))
    declared = household(rules) if how.get("name") == "household" else churn(rules=rules)
    publish(load_settings(home=home, store_remote=how.get("remote", "")), declared, full=how.get("full", False))
