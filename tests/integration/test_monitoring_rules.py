"""The rules, alerts, dashboard and configurations of deploy/monitoring, by their own text and by promtool."""

import re
import subprocess
from collections.abc import Sequence

import pytest
from monitoring_services import (
    DASHBOARD,
    MONITORING,
    metrics_in,
    panels,
    program,
    rules,
)

from forecache.kit.metrics.metric import METRICS

pytestmark = pytest.mark.slow


def declared(names: Sequence[str]) -> set[str]:
    """Those that are no metric that is exported, nor a histogram's part, nor a recorded series."""
    known = set(METRICS) | {rule["record"] for rule in rules("recording")} | {"up"}
    return {name for name in names if name not in known and re.sub("_(bucket|sum|count)$", "", name) not in known}


def test_rules_alerts_and_panels_read_metrics_that_are_declared() -> None:
    expressions = [rule["expr"] for name in ("recording", "alerts") for rule in rules(name)]
    expressions += [query for _, query in panels()]
    assert declared(sorted({name for each in expressions for name in metrics_in(each)})) == set()
    for rule in rules("alerts"):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Real time", "Drift of real-time models", "Store and reader", "Request log", "Batch", "Streams",
    ]  # fmt: skip


@pytest.mark.parametrize("file", ["rules_test.yml", "day_test.yml"])
def test_alerts_fire_and_end_as_the_unit_tests_of_promtool_say(file: str) -> None:
    command = [program("promtool"), "test", "rules", str(MONITORING / "tests" / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shipped_configurations_are_accepted() -> None:
    for command in (
        [program("promtool"), "check", "config", str(MONITORING / "prometheus.yml")],
        [program("amtool"), "check-config", str(MONITORING / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
