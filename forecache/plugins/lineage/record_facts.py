"""Facts of records other than the stage ledger: ingested files, the gate's decisions, published versions, mailings."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import groupby
from typing import Any

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.base.table_names import MAIL_TABLE, QUARANTINE, RAW
from forecache.kit.delta.small_tables import Filter, read_small_table
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.models.registry.promotions import PROMOTION_TABLE
from forecache.plugins.lineage import naming
from forecache.plugins.lineage.fact import Dataset, Fact
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.store import list_local_stores

PUBLISHED = "store"


def ingest_facts(settings: Settings, filters: Sequence[Filter]) -> Iterator[Fact]:
    """A fact for the files of a source that a run ingested in one commit."""
    rows = read_small_table(settings, FILES_TABLE, filters)

    def group_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["ingested_at"], row["source"], row["run_id"], row["raw_version"]

    for (at, source, run_id, version), some in groupby(sorted(rows, key=group_key), key=group_key):
        files = list(some)
        good, bad = sum(row["raw_rows"] for row in files), sum(row["quarantined_rows"] for row in files)
        landed = naming.landing_folder(settings, source)
        outputs = [naming.table(settings, RAW + source, version, rows=good)]
        outputs += [naming.table(settings, QUARANTINE + source, None, rows=bad)] if bad else []
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
        inputs = [naming.model(settings, name, judged)] if judged is not None else []
        if row["training_table"] and row["training_version"] >= 0:
            inputs.append(naming.table(settings, row["training_table"], row["training_version"]))
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
            outputs=[naming.model(settings, f"{name}@champion", row["to_version"])] if passed else [],
            details={key: row[key] for key in ("actor", "verdict", "reason", "from_version", "to_version")},
        )


def publish_facts(settings: Settings, since: datetime | None) -> Iterator[Fact]:
    """A fact for each retained version of the stores here that was published after a moment."""
    for store in list_local_stores(settings):
        for number in store.version_numbers():
            try:
                manifest = store.manifest(number)
            except UnavailableError:  # it was removed meanwhile, or is damaged: `forecache verify` says so
                continue
            if since is None or manifest.published_time > since:
                yield _publish_fact(settings, manifest)


def _publish_fact(settings: Settings, manifest: Manifest) -> Fact:
    source = manifest.source
    made_of = naming.table(settings, source.table, source.delta_version)
    fields = [field.name for field in manifest.fields]
    lineage = {"fields": {name: {"inputFields": [_identity(made_of, name)]} for name in (*manifest.key.names, *fields)}}
    schema = {"fields": [{"name": name} for name in (*manifest.key.names, *fields)]}
    stored = naming.store(
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
        made_of = naming.table(settings, messages[0]["table"], messages[0]["delta_version"])
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
