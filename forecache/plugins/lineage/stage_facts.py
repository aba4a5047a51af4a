"""Facts of the stage ledger: features, training sets, trainings, registrations, scores, checks, releases and others."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import Any

from forecache.base.settings import Settings
from forecache.kit.delta.small_tables import Filter, read_small_table
from forecache.lake.ledger import LEDGER_TABLE
from forecache.plugins.lineage import naming
from forecache.plugins.lineage.fact import Dataset, Fact

SOURCE = LEDGER_TABLE
_TABLE_AT = re.compile(r"(?:before:)?([a-z_][a-z0-9_]*)@(\d+)")
_MODEL_AT = re.compile(r"model=(.+)@(\d+)")
ELSEWHERE = ("ingest", "publish")
"""Stages whose facts come from `ingested_files` and the manifests; their ledger rows are not used."""
CHECKS = ("check", "drift", "reconcile")
"""Stages that judge a table and write none; their subject is the table's name."""


def stage_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for each commit of a stage: as-of dates that were committed together are one run.

    Args:
        filters: On the ledger's columns.
    """
    found = read_small_table(settings, LEDGER_TABLE, filters)
    rows = [row for row in found if row["commit_version"] is not None and row["stage"] not in ELSEWHERE]

    def group_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["commit_version"], row["stage"], row["subject"], row["run_id"]

    rows.sort(key=lambda row: (*group_key(row), row["night"] or date.min))
    for (commit, stage, subject, run_id), some in groupby(rows, key=group_key):
        yield _fact(settings, commit, stage, subject, run_id, list(some))


def _fact(
    settings: Settings, commit: int, stage: str, subject: str, run_id: str, rows: Sequence[Mapping[str, Any]]
) -> Fact:
    details = {row["night"]: json.loads(row["details"]) for row in rows}
    first = rows[0]
    judges = stage in CHECKS
    return Fact(
        source=SOURCE,
        position=commit,
        identity=f"{commit} {stage} {subject} {run_id}",
        stage=stage,
        subject=subject,
        nights=[row["night"] for row in rows if row["night"] is not None],
        run_id=run_id,
        code_version=first["code_version"],
        ended_at=first["recorded_at"],
        seconds=sum(row["seconds"] for row in rows),
        inputs=[_checked_table(settings, subject, rows, details)]
        if judges
        else _inputs(settings, stage, rows, details),
        outputs=[] if judges else _outputs(settings, stage, subject, rows, details),
        details={"commit_version": commit, "rows": sum(row["rows"] for row in rows), "inputs": first["inputs"]},
    )


def _inputs(
    settings: Settings, stage: str, rows: Sequence[Mapping[str, Any]], details: Mapping[Any, Mapping[str, Any]]
) -> list[Dataset]:
    """The inputs that the records name; of several as-of dates the newest version of each dataset."""
    tables: dict[str, int] = {}
    models: dict[str, int] = {}
    for row in rows:
        for word in row["inputs"].split():
            if found := _TABLE_AT.fullmatch(word):
                tables[found[1]] = max(int(found[2]), tables.get(found[1], -1))
            elif found := _MODEL_AT.fullmatch(word):
                models[found[1]] = max(int(found[2]), models.get(found[1], -1))
    runs = {said["mlflow_run_id"] for said in details.values() if stage == "register" and said.get("mlflow_run_id")}
    pinned = {name: pin for each in details.values() for name, pin in (each.get("pinned") or {}).items()}
    return [
        *(naming.table(settings, name, version) for name, version in tables.items()),
        *(naming.existing_table(pin["uri"], pin.get("version")) for pin in pinned.values()),
        *(naming.model(settings, name, version) for name, version in models.items()),
        *(naming.training_run(settings, run) for run in sorted(runs)),
    ]


def _outputs(
    settings: Settings,
    stage: str,
    subject: str,
    rows: Sequence[Mapping[str, Any]],
    details: Mapping[Any, Mapping[str, Any]],
) -> list[Dataset]:
    last = max(rows, key=lambda row: row["delta_version"])
    if last["table"] and last["delta_version"] >= 0:
        num_rows = sum(row["rows"] for row in rows)
        return [naming.table(settings, last["table"], last["delta_version"], rows=num_rows)]
    said = next(iter(details.values()))
    if stage == "extract":
        return [naming.landing_folder(settings, subject)]
    if stage == "train" and said.get("mlflow_run_id"):
        return [naming.training_run(settings, said["mlflow_run_id"])]
    if stage == "register" and "model_version" in said:
        return [naming.model(settings, subject, said["model_version"])]
    if stage == "release" and "release" in said:
        return [naming.release(settings, subject, said["release"])]
    return []


def _checked_table(
    settings: Settings, table: str, rows: Sequence[Mapping[str, Any]], details: Mapping[Any, Mapping[str, Any]]
) -> Dataset:
    """The table that was checked, with each expectation's outcome over all as-of dates of the record."""
    assertions: dict[tuple[str, str, str], bool] = {}
    for said in details.values():
        for name, column, severity, success in _outcomes(said):
            key = (name, column, severity)
            assertions[key] = assertions.get(key, True) and success
    shown = [
        {"assertion": name, "success": success, "severity": severity, **({"column": column} if column else {})}
        for (name, column, severity), success in assertions.items()
    ]
    return naming.table(
        settings,
        table,
        None,
        dataQualityAssertions={"assertions": shown},
        dataQualityMetrics={"rowCount": sum(row["rows"] for row in rows), "columnMetrics": {}},
    )


def _outcomes(said: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Name, column, severity and success of each outcome in a record's details."""
    if "results" in said:
        for result in said["results"]:
            severity = "error" if result["severity"] == "critical" else "warn"
            column = result["subject"] if "," not in result["subject"] else ""
            yield result["expectation"], column, severity, result["success"]
    elif "success" in said:
        yield "adds_up_to_what_landed", "", "error", said["success"]
    elif "blocks" in said:
        yield "has_not_drifted", "", "error", not said["blocks"]
