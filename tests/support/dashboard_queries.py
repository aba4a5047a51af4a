"""The panels of the Grafana dashboard, and what a Prometheus answers to their queries."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitoring_services import Prometheus

PICTURES = (("dashboard-serving", "Real time", "Store and reader"), ("dashboard-batch", "Request log", "Streams"))
"""Name of each picture, and its first and its last row."""
Marks = Sequence[tuple[float, str]]
"""Unix time and colour of each annotation."""


@dataclass(frozen=True)
class Series:
    """An answer of a query: its legend, and its values at Unix times."""

    name: str
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Shown:
    """The time that is shown, in Unix time, and the resolution."""

    start: float
    end: float
    step_s: float


def section(panels: Sequence[dict[str, Any]], first: str, last: str) -> list[dict[str, Any]]:
    """The panels from the row titled `first` to the end of the row titled `last`."""
    rows = [panel for panel in panels if panel["type"] == "row"]
    titles = [row["title"] for row in rows]
    begins, after = rows[titles.index(first)]["gridPos"]["y"], titles.index(last) + 1
    ends = rows[after]["gridPos"]["y"] if after < len(rows) else math.inf
    return [panel for panel in panels if begins <= panel["gridPos"]["y"] < ends]


def asked(panel: dict[str, Any], server: Prometheus, shown: Shown) -> list[Series]:
    """The answers to all queries of a panel, with the dashboard's variables at "All"."""
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$job", ".*").replace("$model", ".*")
        if target.get("instant"):
            answers = [(each["metric"], [each["value"]]) for each in server.query(query)]
        else:
            answers = [(each["metric"], each["values"]) for each in _over(server, query, shown)]
        for labels, values in answers:
            name = re.sub(r"{{(\w+)}}", lambda label, labels=labels: labels.get(label[1], ""), target["legendFormat"])
            found.append(Series(name, [float(at) for at, _ in values], [float(value) for _, value in values]))
    return found


def annotations(declared: Sequence[dict[str, Any]], server: Prometheus, shown: Shown) -> Marks:
    """When each annotation of the dashboard begins."""
    marks = []
    for each in declared:
        for answer in _over(server, each["expr"], shown):
            times = [float(at) for at, _ in answer["values"]]
            marks += [
                (at, each["iconColor"])
                for before, at in zip([0.0, *times], times, strict=False)
                if at - before > shown.step_s
            ]
    return marks


def _over(server: Prometheus, query: str, shown: Shown) -> list[dict[str, Any]]:
    over = {"start": f"{shown.start}", "end": f"{shown.end}", "step": f"{shown.step_s}"}
    found: list[dict[str, Any]] = server.get("query_range", query=query, **over)["result"]
    return found
