"""The precompute store: `publish`, `store versions`, `store pin`, `store unpin`, `store unblock`."""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import NotFoundError
from forecache.cli.base import DateParam, command, settings
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import (
    format_duration,
    print_json,
    show,
    show_stages,
    show_table,
    size,
    stage_dict,
    wants_json,
)
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import find_published

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.serve.store import Manifest, Store


PIPELINE = click.argument("pipeline", metavar="PIPELINE")


def open_pipeline_store(pipeline: str, *, or_model: bool = False) -> "Store":
    """`find_store` with the settings of this invocation."""
    return find_store(settings(), pipeline, or_model=or_model)


def find_store(current: "Settings", pipeline: str, *, or_model: bool = False) -> "Store":
    """The store of a declared pipeline, or one with a published version or a live layer; raises as `find_published`.

    Args:
        or_model: True if the command accepts real-time models, too, and has found no release with this name.
    """
    from forecache.declare.served import require_published
    from forecache.serve.store import open_store

    store = open_store(current, pipeline)
    if not store.version_numbers() and not store.layout.live.exists():
        require_published(find_published(current, pipeline, or_model=or_model))
    return store


def manifest_dict(manifest: "Manifest", state: tuple[str, ...] = ()) -> dict[str, Any]:
    """A version with the stable keys of `--json`."""
    return {
        "pipeline": manifest.pipeline,
        "version": manifest.version,
        "parent": manifest.parent,
        "kind": manifest.kind,
        "rows": manifest.rows,
        "as_of": manifest.as_of,
        "model": manifest.made_by.get("model"),
        "table": manifest.source.table,
        "delta_version": manifest.source.delta_version,
        "scored_at": manifest.made_by.get("scored_at"),
        "published_at": manifest.published_at,
        "segments": len(manifest.segments),
        "size_bytes": manifest.size_bytes,
        "content_hash": manifest.content_hash,
        "run_id": manifest.run_id,
        "code_version": manifest.code_version,
        **({"stream": manifest.stream, "cut": manifest.cut} if manifest.stream else {}),
        "state": list(state),
    }


def live_layer_dict(store: "Store", *versions: "Manifest") -> dict[str, Any] | None:
    """The live layer of a store with the stable keys of `--json`; None if it has none.

    Args:
        versions: `above` has, for each of their numbers, the number of keys whose streamed row wins over it.
    """
    from forecache.serve.store.live.layer import read_layer
    from forecache.serve.store.live.reader import LiveReader

    declared = read_layer(store.layout)
    if declared is None:
        return None
    with LiveReader(store.layout) as live:
        counts = live.count_above([manifest.cut for manifest in versions])
        return {
            "stream": declared.stream,
            "table": declared.table,
            "kind": declared.kind,
            "rows": live.entries - live.num_pending,
            "pending": live.num_pending,
            "applied": live.applied_version,
            "verified_through": live.verified_through,
            "above": {str(manifest.version): count for manifest, count in zip(versions, counts, strict=True)},
        }


def layer_text(live: dict[str, Any], first: str = "live") -> str:
    """A live layer in one line."""
    pending = f" and {live['pending']:,} pending" if live["pending"] else ""
    verified = f"verified at {live['verified_through']}" if live["verified_through"] >= 0 else "not verified yet"
    applied = f"version {live['applied']} of {live['table']}, {verified}" if live["applied"] >= 0 else "nothing yet"
    return f"{first} layer of the stream {live['stream']}: {live['rows']:,} rows{pending}, up to {applied}"


def _update_targets(store: "Store", what: str) -> dict[str, Any]:
    """Update Redis and the remote to the version that is served here; returns what was done, by target."""
    from forecache.declare.loading import find_served
    from forecache.operations.distribute_release import report_replica_failure
    from forecache.serve.store.push_pull import sync_served

    current = settings()
    with report_replica_failure(store.pipeline, what), StageProgress() as progress:
        return sync_served(current, find_served(current, store.pipeline), store, progress.update)


def print_served(
    store: "Store",
    manifest: "Manifest | None",
    what: str,
    targets: dict[str, Any],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print which version is served after a change; `more` has further keys of the JSON."""
    live = None if manifest is None else live_layer_dict(store, manifest)
    if live is not None:
        more = {**(more or {}), "live": live}
    if wants_json():
        served = None if manifest is None else manifest_dict(manifest, store.state(manifest.version))
        print_json(None if served is None and not more else {**(served or {}), "targets": targets, **(more or {})})
    elif manifest is None:
        click.echo(f"{what} Nothing is published for {store.pipeline} yet.")
    else:
        served_now = f"version {manifest.version} of {store.pipeline}, as of {manifest.as_of}, {manifest.rows:,} keys"
        places = f", also by {' and '.join(targets)}" if targets else ""
        above = ""
        if live is not None:
            count = live["above"][str(manifest.version)]
            above = f" Above it, {count:,} streamed rows of {live['stream']} answer, as before."
        click.echo(f"{what} Served now: {served_now}{places}.{above}")


@command("publish", examples="forecache publish churn\nforecache publish churn --date 1998-06-29 --full")
@PIPELINE
@click.option("--date", "night", type=DateParam(), help="The as-of date; default: the newest one there is.")
@click.option("--full", is_flag=True, help="Write a new base even if a small segment would do.")
@click.option("--unchecked", is_flag=True, help="Publish also rows that were not checked since they changed.")
@click.option(
    "--replace-remote",
    is_flag=True,
    help="Put what this home has in the place of a store in the remote that it has not seen.",
)
def publish(pipeline: str, night: date | None, full: bool, unchecked: bool, replace_remote: bool) -> None:
    """Publish an as-of date of PIPELINE, or of a feature view: build, verify, then serve it at once.

    An as-of date is published only if its present rows passed their checks, which `forecache run` makes. One that
    failed them is never published.
    """
    from forecache.operations.publish_night import publish_night

    current = settings()
    declared = find_published(current, pipeline)
    with StageProgress() as progress:
        result = publish_night(
            current, declared, night=night, full=full, unchecked=unchecked, replace_remote=replace_remote,
            progress=progress.update,
        )  # fmt: skip
    if not result.skipped:
        what = {"as_of": result.nights[0], "version": result.details["version"]}
        show_in_dagster(current, f"published_{pipeline}", what, result=result)
    if wants_json():
        print_json(stage_dict(result))
    else:
        show_stages([result])
        if result.details.get("why_full"):
            click.echo(f"A full publish: {result.details['why_full']}.")
        if result.details.get("why_compacted"):
            click.echo(f"Merged into a new base: {result.details['why_compacted']}.")


@command("versions", examples="forecache store versions churn\nforecache store versions churn --json")
@PIPELINE
def versions(pipeline: str) -> None:
    """List the retained versions of PIPELINE, the newest first.

    A machine that serves none of them lists those of the remote.
    """
    store = open_pipeline_store(pipeline)
    with store.look() if store.pointer().serving is None else nullcontext():
        _show_versions(store)


def _show_versions(store: "Store") -> None:
    pipeline = store.pipeline
    found = [(manifest, store.state(manifest.version)) for manifest in reversed(store.versions())]
    if wants_json():
        print_json([manifest_dict(manifest, state) for manifest, state in found])
        return
    live = live_layer_dict(store, *(manifest for manifest, _ in found))
    if not found and live is not None:
        click.echo(f"{pipeline} has no version. {layer_text(live, 'Live')}.")
        return
    if not found:
        raise NotFoundError(f"Nothing is published for {pipeline}.", remedy=f"Run `forecache publish {pipeline}`.")
    serving = store.pointer().serving
    rows = [
        (
            manifest.version,
            manifest.kind,
            manifest.rows,
            manifest.as_of,
            " ".join(map(str, manifest.made_by.get("model", {}).values())),
            manifest.source.delta_version,
            format_age(manifest.published_time),
            size(manifest.size_bytes),
            *([manifest.cut, live["above"][str(manifest.version)]] if live is not None else []),
            ", ".join(("served", *state) if manifest.version == serving else state),
        )
        for manifest, state in found
    ]
    of_stream = ("cut", "live rows above") if live is not None else ()
    columns = ("version", "kind", "keys", "as of", "model", "Delta version", "published", "size", *of_stream, "state")
    is_open = any("open" in state for _, state in found)
    caption = "open: a process reads that version now, so that it is not removed" if is_open else ""
    if live is not None:
        caption = f"{layer_text(live)}{'; ' if caption else ''}{caption}"
    show_table(columns, rows, right=("version", "keys", "Delta version", "size", *of_stream), caption=caption)


def format_age(moment: datetime) -> str:
    return f"{format_duration(max(0.0, (datetime.now(timezone.utc) - moment).total_seconds()))} ago"


@command("pin", examples="forecache store pin churn 16")
@PIPELINE
@click.argument("version", type=int)
def pin(pipeline: str, version: int) -> None:
    """Serve VERSION of PIPELINE until it is unpinned, even if newer versions are published."""
    store = open_pipeline_store(pipeline)
    served = store.pin(version)
    show_in_dagster(settings(), f"published_{pipeline}", {"pinned": version})
    print_served(store, served, "Pinned.", _update_targets(store, "Pinned."))


@command("unpin", examples="forecache store unpin churn")
@PIPELINE
def unpin(pipeline: str) -> None:
    """Serve the newest version of PIPELINE again that is not blocked."""
    store = open_pipeline_store(pipeline)
    served = store.unpin()
    show_in_dagster(settings(), f"published_{pipeline}", {"pinned": None})
    print_served(store, served, "Unpinned.", _update_targets(store, "Unpinned."))


@command("unblock", examples="forecache store unblock churn 17")
@PIPELINE
@click.argument("version", type=int)
def unblock(pipeline: str, version: int) -> None:
    """Unblock VERSION of PIPELINE, so that its predictions may be published or rolled back to again.

    The served version does not change. Of a version that is not blocked, nothing does.
    """
    store = open_pipeline_store(pipeline)
    manifest, was_blocked = store.unblock(version)
    show_in_dagster(settings(), f"published_{pipeline}", {"unblocked": version})
    what = f"Version {version} of {pipeline} is {'no longer' if was_blocked else 'not'} blocked."
    targets = _update_targets(store, what)
    show({**manifest_dict(manifest, store.state(version)), "targets": targets}, what)
