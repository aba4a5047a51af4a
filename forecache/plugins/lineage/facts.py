"""Facts, each a recorded piece of work: of the stage ledger, ingestions, the gate's decisions, published versions."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

from forecache.base.settings import Settings
from forecache.base.table_names import MAIL_TABLE, QUARANTINE, RAW
from forecache.kit.delta.small_tables import Filter, read_small_table
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.lake.ledger import LEDGER_TABLE
from forecache.models.registry.promotions import PROMOTION_TABLE
from forecache.plugins.lineage import datasets
from forecache.plugins.lineage.datasets import Dataset
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.remote_store import read_retained

_IDS = uuid.UUID("6f1b7a52-3d0e-5c41-9a57-0c5a1d2b7e90")
"""Namespace of the UUIDs that are run ids (RFC 9562, version 5)."""


@dataclass(frozen=True)
class Fact:
    """Work that one stage did in one go."""

    source: str  # the record it was read from, such as "stage_ledger"
    position: Any  # position in that record; facts of a source are sent in this order
    identity: str  # unique within the source
    stage: str
    subject: str
    nights: Sequence[date]  # as-of dates, ascending; empty for a stage without them
    run_id: str  # of the orchestrator's run, "" without one
    code_version: str
    ended_at: datetime
    seconds: float
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # for the facet `forecache_stage`
    error: str = ""  # reason of a failure, "" without one

    @property
    def job(self) -> str:
        return f"{self.stage}.{self.subject}"

    @property
    def started_at(self) -> datetime:
        return self.ended_at - timedelta(seconds=self.seconds)

    def event_run_id(self, lake: str) -> str:
        """The run id, equal each time that the fact is sent, so that a receiver recognises a duplicate."""
        return named_run_id(lake, self.source, self.identity)


def named_run_id(*names: str) -> str:
    """The run id that is derived from these names."""
    return str(uuid.uuid5(_IDS, "\0".join(names)))


def parent_run_id(run_id: str) -> str:
    """The orchestrator's run id, which is a UUID, or one made from it."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(_IDS, run_id))


PUBLISHED = "store"


def ingest_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for the files of a source that a run ingested in one commit."""
    rows = read_small_table(settings, FILES_TABLE, filters)

    def group_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["ingested_at"], row["source"], row["run_id"], row["raw_version"]

    for (at, source, run_id, version), some in groupby(sorted(rows, key=group_key), key=group_key):
        files = list(some)
        good, bad = sum(row["raw_rows"] for row in files), sum(row["quarantined_rows"] for row in files)
        landed = datasets.landing_folder(settings, source)
        outputs = [datasets.table(settings, RAW + source, version, rows=good)]
        outputs += [datasets.table(settings, QUARANTINE + source, None, rows=bad)] if bad else []
        yield Fact(
            source=FILES_TABLE,
            position=at.isoformat(),
            identity=f"{at.isoformat()} {source} {version}",
            stage="ingest",
            subject=source,
            nights=sorted({row["event_day"] for row in files if row["event_day"]}),
            run_id=run_id,
            code_version=files[0]["code_version"],
            ended_at=at,
            seconds=0.0,
            inputs=[landed],
            outputs=outputs,
            details={
                "files": len(files),
                "landing_rows": sum(row["landing_rows"] for row in files),
                "bytes": sum(row["size_bytes"] for row in files),
                "in_quarantine_whole": sum(row["error"] is not None for row in files),
            },
        )


def gate_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for each completed decision about a champion."""
    for row in read_small_table(settings, PROMOTION_TABLE, filters):
        if row["verdict"] == "begun":
            continue
        name = row["pipeline"]
        judged = row["candidate"] if row["candidate"] is not None else row["to_version"]
        inputs = [datasets.model(settings, name, judged)] if judged is not None else []
        if row["training_table"] and row["training_version"] >= 0:
            inputs.append(datasets.table(settings, row["training_table"], row["training_version"]))
        passed = row["verdict"] == "passed" and row["to_version"] is not None
        yield Fact(
            source=PROMOTION_TABLE,
            position=-1 if row["position"] is None else row["position"],
            identity=f"{row['position']} {name} {row['operation']} {row['recorded_at'].isoformat()}",
            stage=row["action"],
            subject=name,
            nights=(),
            run_id=row["run_id"],
            code_version=row["code_version"],
            ended_at=row["recorded_at"],
            seconds=0.0,
            inputs=inputs,
            outputs=[datasets.model(settings, f"{name}@champion", row["to_version"])] if passed else [],
            details={key: row[key] for key in ("actor", "verdict", "reason", "from_version", "to_version")},
        )


def publish_facts(settings: Settings, since: datetime | None) -> Iterator[Fact]:
    """A fact for each version that was published after a moment, and that a store here or in the remote retains."""
    facts: dict[str, Fact] = {}
    for manifest in read_retained(settings):
        if since is None or manifest.published_time > since:
            fact = _publish_fact(settings, manifest)
            facts.setdefault(fact.identity, fact)
    yield from facts.values()


def _publish_fact(settings: Settings, manifest: Manifest) -> Fact:
    source = manifest.source
    made_of = datasets.table(settings, source.table, source.delta_version)
    fields = [field.name for field in manifest.fields]
    lineage = {"fields": {name: {"inputFields": [_identity(made_of, name)]} for name in (*manifest.key.names, *fields)}}
    schema = {"fields": [{"name": name} for name in (*manifest.key.names, *fields)]}
    stored = datasets.store(
        settings, manifest.pipeline, manifest.version, rows=manifest.rows, schema=schema, columnLineage=lineage
    )
    return Fact(
        source=PUBLISHED,
        position=manifest.published_time.isoformat(),
        identity=f"{manifest.store} {manifest.pipeline} {manifest.version}",
        stage="publish",
        subject=manifest.pipeline,
        nights=[date.fromisoformat(manifest.as_of)],
        run_id=manifest.run_id,
        code_version=manifest.code_version,
        ended_at=manifest.published_time,
        seconds=0.0,
        inputs=[made_of],
        outputs=[stored],
        details={"kind": manifest.kind, "content_hash": manifest.content_hash, "version": manifest.version},
    )


def _identity(made_of: Dataset, column: str) -> dict[str, Any]:
    step = {"type": "DIRECT", "subtype": "IDENTITY", "description": "", "masking": False}
    return {"namespace": made_of.namespace, "name": made_of.name, "field": column, "transformations": [step]}


def mail_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for each batch of messages whose outcome is recorded."""
    rows = [
        row for row in read_small_table(settings, MAIL_TABLE, filters) if row["state"] not in ("intended", "in doubt")
    ]

    def group_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["mailing"], row["as_of"], row["batch"], row["store_version"], row["commit_version"] or 0

    for (mailing, as_of, batch, _, commit), some in groupby(sorted(rows, key=group_key), key=group_key):
        messages = list(some)
        first, last = min(row["at"] for row in messages), max(row["at"] for row in messages)
        made_of = datasets.table(settings, messages[0]["table"], messages[0]["delta_version"])
        states = sorted({row["state"] for row in messages})
        yield Fact(
            source=MAIL_TABLE,
            position=commit,
            identity=f"{commit} {mailing} {as_of} {batch}",
            stage="mail",
            subject=mailing,
            nights=[as_of],
            run_id=messages[0]["run_id"],
            code_version="",
            ended_at=last,
            seconds=(last - first).total_seconds(),
            inputs=[made_of],
            details={state: sum(row["state"] == state for row in messages) for state in states},
        )


SOURCE = LEDGER_TABLE
_TABLE_AT = re.compile(r"(?:before:)?([a-z_][a-z0-9_]*)@(\d+)")
_MODEL_AT = re.compile(r"model=(.+)@(\d+)")
ELSEWHERE = ("ingest", "publish")
"""Stages whose facts come from `ingested_files` and the manifests; their ledger rows are not used."""
CHECKS = ("check", "drift", "reconcile")
"""Stages that judge a table and write none; their subject is the table's name."""


def stage_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for each commit of a stage: as-of dates that were committed together are one run."""
    found = read_small_table(settings, LEDGER_TABLE, filters)
    rows = [row for row in found if row["commit_version"] is not None and row["stage"] not in ELSEWHERE]

    def group_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["commit_version"], row["stage"], row["subject"], row["run_id"]

    rows.sort(key=lambda row: (*group_key(row), row["as_of"] or date.min))
    for (commit, stage, subject, run_id), some in groupby(rows, key=group_key):
        yield _fact(settings, commit, stage, subject, run_id, list(some))


def _fact(
    settings: Settings, commit: int, stage: str, subject: str, run_id: str, rows: Sequence[Mapping[str, Any]]
) -> Fact:
    details = {row["as_of"]: json.loads(row["details"]) for row in rows}
    first = rows[0]
    judges = stage in CHECKS
    return Fact(
        source=SOURCE,
        position=commit,
        identity=f"{commit} {stage} {subject} {run_id}",
        stage=stage,
        subject=subject,
        nights=[row["as_of"] for row in rows if row["as_of"] is not None],
        run_id=run_id,
        code_version=first["code_version"],
        ended_at=first["recorded_at"],
        seconds=sum(row["seconds"] for row in rows),
        inputs=[_checked_table(settings, subject, rows, details)]
        if judges
        else _inputs(settings, stage, rows, details),
        outputs=[] if judges else _outputs(settings, stage, subject, rows, details),
        details={
            "commit_version": commit,
            "rows": sum(row["rows"] for row in rows),
            "inputs": first["inputs"],
            # Of a model that was fitted again on the rows of all splits, their number and that of its rounds.
            **next(({"refit": said["refit"]} for said in details.values() if "refit" in said), {}),
        },
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
        *(datasets.table(settings, name, version) for name, version in tables.items()),
        *(datasets.existing_table(pin["uri"], pin.get("version")) for pin in pinned.values()),
        *(datasets.model(settings, name, version) for name, version in models.items()),
        *(datasets.training_run(settings, run) for run in sorted(runs)),
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
        return [datasets.table(settings, last["table"], last["delta_version"], rows=num_rows)]
    said = next(iter(details.values()))
    if stage == "extract":
        return [datasets.landing_folder(settings, subject)]
    if stage == "train" and said.get("mlflow_run_id"):
        return [datasets.training_run(settings, said["mlflow_run_id"])]
    if stage == "register" and "model_version" in said:
        return [datasets.model(settings, subject, said["model_version"])]
    if stage == "release" and "release" in said:
        return [datasets.release(settings, subject, said["release"])]
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
    return datasets.table(
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
