"""Maintenance of the lake: every table is maintained, and Delta versions that are still referenced are kept.

References to old Delta versions come from retained published versions, the ledger (features and predictions of an as-of
date, training sets), registered models, promotions, training runs that may resume from a checkpoint, and rows of
streams, which name the as-of dates of the features that they were computed from.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from forecache.base.errors import InputError, NotFoundError
from forecache.base.folders import LocalFolder
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import REQUEST_LOG, TRAINING_SET
from forecache.declare import Pipeline, Realtime, Served, Source, Stream, TableSource
from forecache.declare.loading import read_project
from forecache.kit.delta.files import RETENTION, place_of
from forecache.kit.delta.renamed_columns import open_rows
from forecache.kit.delta.small_tables import SORTED_BY
from forecache.kit.delta.stream_tables import is_stream_table, nights_in_base, read_stream_bases
from forecache.kit.delta.tables import resolve_place, table_exists, table_names
from forecache.lake.kept_definitions import list_contracts
from forecache.lake.ledger import LEDGER_TABLE
from forecache.models.registry.model_versions import training_tables
from forecache.models.registry.promotions import PROMOTION_TABLE
from forecache.models.training.run_files import open_training_root
from forecache.models.training.spec import SPEC_FILE
from forecache.operations.kept_contracts import find_contract_users, retire_contracts
from forecache.operations.kept_features import retire_all_features
from forecache.plugins.maintenance.table import MaintenanceResult, Pin, maintain_table
from forecache.serve.store.remote_store import read_retained

Named = Iterator[tuple[str, Pin]]


def maintain_lake(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    dry_run: bool = False,
    retention: timedelta = RETENTION,
    progress: Progress = no_progress,
) -> list[MaintenanceResult]:
    """Maintain the named tables, or all of the lake; see `maintain_table`.

    Of all, first those of views' earlier contracts are removed, with their stores, that no release names any more, and
    those of pipelines' earlier features that no model needs.

    NotFoundError if the lake has no such table, InputError if it is an existing table that a source reads.
    """
    if not names and not dry_run and list_contracts(settings):
        retire_contracts(settings, find_contract_users(settings), progress=progress)
    if not names and not dry_run and list_contracts(settings, kind="features"):
        retire_all_features(settings, progress=progress)
    foreign = foreign_tables(settings)
    here = [name for name in table_names(settings) if name not in foreign]
    for name in names:
        if name in foreign:
            raise InputError(
                f"The table {name!r} is read by source {foreign[name]!r}, and others write it.",
                remedy="Whoever writes it maintains it.",
            )
        if name not in here:
            raise NotFoundError(f"The lake has no table {name!r}.", remedy="`forecache tables` lists those there are.")
    wanted, done = list(names) or here, []
    # Nothing refers to old versions of the tables of streams, which are maintained each hour.
    pins = {} if all(map(is_stream_table, wanted)) else pinned_versions(settings)
    for number, name in enumerate(wanted):
        progress(f"maintaining {name}", number / len(wanted))
        done.append(maintain_table(settings, name, pins.get(name, ()), dry_run=dry_run, retention=retention))
    return done


def foreign_tables(settings: Settings) -> dict[str, str]:
    """Tables in the lake's folder that the project only reads, with the name of a source that reads each."""
    project = read_project(settings)
    making = (*project.publishable.values(), *project.realtime.values(), *project.streams.values())
    sources = [source for each in (*making, *project.follow_ups) for source in each.all_sources]
    own = {name for each in making for name in own_tables(each)}
    found = {}
    for source in sources:
        if isinstance(source, TableSource):
            folder, _, name = resolve_place(settings, source.uri).uri.rstrip("/").rpartition("/")
            if name not in own and folder == place_of(settings, name).uri.rpartition("/")[0]:
                found[name] = source.name
    return found


def own_tables(each: Served | Realtime | Stream) -> Iterator[str]:
    """The tables that a pipeline, a recommender, a real-time model, a stream and their landed sources write."""
    for source in each.all_sources:
        if isinstance(source, Source):
            yield from (source.raw_table, source.quarantine_table)
    if isinstance(each, Stream):
        yield from (each.table, each.quarantine_table)
        return
    yield each.training_table if isinstance(each, Realtime) else each.served_table
    if isinstance(each, Realtime):
        yield REQUEST_LOG + each.name
    if isinstance(each, Pipeline):
        yield from (each.feature_table, each.training_table, each.challenger_table)


def pinned_versions(settings: Settings) -> dict[str, set[Pin]]:
    """The Delta versions that are still referenced, by table."""
    found: dict[str, set[Pin]] = {}
    for named in (_published_pins, _ledger_pins, _promotion_pins, _training_pins, _stream_pins):
        for table, pin in named(settings):
            if pin.version >= 0 and table and table not in SORTED_BY:
                found.setdefault(table, set()).add(pin)
    return found


def _published_pins(settings: Settings) -> Named:
    """The predictions of retained versions, and the features, or interactions, that they were made from."""
    made_from = _input_tables(settings)
    for manifest in read_retained(settings):
        yield manifest.source.table, Pin(manifest.source.delta_version, manifest.source.as_of)
        for provenance in (manifest.provenance, *manifest.provenances.values()):
            # Lists of similar items are made under another name than they are served under.
            for name in {manifest.pipeline, provenance.model_name}:
                for table in made_from.get((name, provenance.feature_version), ()):
                    yield table, Pin(provenance.feature_version)


def _input_tables(settings: Settings) -> dict[tuple[str, int], set[str]]:
    """By pipeline and Delta version, the tables of features that were scored, or of interactions that a model
    learned; other pipelines may use them too."""
    found: dict[tuple[str, int], set[str]] = {}
    for row in _rows(settings, LEDGER_TABLE, ["subject", "details"]):
        details = json.loads(row["details"])
        if "feature_version" in details:
            found.setdefault((row["subject"], details["feature_version"]), set()).add(details["feature_table"])
        if "source_version" in details:
            found.setdefault((row["subject"], details["source_version"]), set()).add(details["source_table"])
    return found


def _ledger_pins(settings: Settings) -> Named:
    """The versions in the last ledger row of each stage and as-of date, and every training set that was used."""
    last: dict[tuple[Any, ...], tuple[int, list[tuple[str, Pin]]]] = {}
    columns = ["stage", "subject", "as_of", "table", "delta_version", "details", "commit_version"]
    for row in _rows(settings, LEDGER_TABLE, columns):
        night, details = row["as_of"].isoformat() if row["as_of"] else None, json.loads(row["details"])
        named = [(row["table"], Pin(row["delta_version"], night))]
        if "feature_version" in details:
            named.append((details["feature_table"], Pin(int(details["feature_version"]), night)))
        if "training_version" in details:
            yield details.get("training_table") or TRAINING_SET + row["subject"], Pin(details["training_version"])
        key, version = (row["stage"], row["subject"], night), row["commit_version"] or 0
        if key not in last or last[key][0] <= version:
            last[key] = version, named
    for _, named in last.values():
        yield from named


def _promotion_pins(settings: Settings) -> Named:
    for row in _rows(settings, PROMOTION_TABLE, ["training_table", "training_version"]):
        yield row["training_table"], Pin(row["training_version"])


def _training_pins(settings: Settings) -> Named:
    if any(name.startswith(TRAINING_SET) for name in table_names(settings)):
        yield from ((table, Pin(version)) for table, version in training_tables(settings))
    # The home alone has those of trials, and of searches in a registry of this machine.
    roots = {str(root): root for root in (LocalFolder(settings.training_path), open_training_root(settings))}
    for root in roots.values():
        for name in root.names():
            if name.endswith(f"/{SPEC_FILE}") and (found := root.read(name)) is not None:
                spec = json.loads(found[0])
                yield spec["table_uri"].rpartition("/")[2], Pin(spec["table_version"])


def _stream_pins(settings: Settings) -> Named:
    """The versions of views that rows of streams were computed from, so that these rows can be computed again."""
    for stream in read_project(settings).streams.values():
        tables = {view.name: view.feature_table for view in stream.views}
        for base in read_stream_bases(settings, stream.table):
            for view, night in nights_in_base(base).items():
                as_of, _, version = night.partition("@")
                if version and view in tables:
                    yield tables[view], Pin(int(version), as_of)


def _rows(settings: Settings, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    if table_exists(settings, name):
        for batch in open_rows(settings, name).to_batches(columns=columns):
            yield from batch.to_pylist()
