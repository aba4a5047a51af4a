"""Exchange of versions with other machines: `store push`, `store pull`."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from forecache.base.errors import ForecacheError, NotEverywhereError, NotFoundError, SettingsError, UnavailableError
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.base.table_names import check_name, known_names_remedy, split_kept_name
from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show, show_table, size, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import find_published, is_released, is_stream_only, resolve_served_names
from forecache.declare.served import require_published
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import PULL

_PIPELINES = click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
_REMOTE = click.option("--remote", help="Folder or s3:// URI; default: FORECACHE_STORE_REMOTE.")


def _run_for_each(
    chosen: list[str], do: Callable[[str], dict[str, Any]], *, nothing_there: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """Call `do` for every pipeline, even if it fails for others; returns one row per pipeline.

    Args:
        nothing_there: True for a pipeline with nothing to exchange; it gets a row with `skipped` and is no failure.
    """
    rows: list[dict[str, Any]] = []
    failures: list[ForecacheError] = []
    for name in chosen:
        try:
            rows.append({"pipeline": name, **do(name)})
        except ForecacheError as error:
            if isinstance(error, NotFoundError) and nothing_there(name):
                rows.append({"pipeline": name, "skipped": error.message})
            else:
                failures.append(error)
    if failures:
        done = [row["pipeline"] for row in rows if "skipped" not in row]
        if len(chosen) > 1:
            click.echo(f"Done for: {', '.join(done) or 'none'}.", err=True)
        for failure in failures[1:]:
            click.echo(str(failure), err=True)
        raise failures[0]
    return rows


def _exchange(
    names: tuple[str, ...], remote: str | None, *, pulling: bool, verify: bool = False
) -> list[dict[str, Any]]:
    """Push or pull the pipelines; returns what was transferred, one row per pipeline or real-time model."""
    from forecache.operations.distribute_release import bring_unsent
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.lake_state import read_lake_state
    from forecache.realtime.release.released_models import list_released_models
    from forecache.realtime.release.replicas import pull_releases, push_releases
    from forecache.serve.store import open_remote, open_store, pull, push
    from forecache.serve.store.push_pull import pull_layers, push_stream_only_stores, remove_retired_contracts
    from forecache.serve.store.remote import list_remote_models, remote_pipelines

    current = settings()
    current.refuse_in_trial("exchange versions with a remote")
    uri = remote or current.store_remote
    if not uri:
        raise SettingsError(
            "There is no remote to exchange versions with.", remedy="Set FORECACHE_STORE_REMOTE or give --remote."
        )
    opened = open_remote(uri, current.storage_options)
    # A replica has no declarations: without names it pulls all that the remote serves.
    for name in names:
        check_name("pipeline", name)
    releases = [name for name in (list_remote_models(opened) if pulling else list_released_models(current))
                if not names or name in names]  # fmt: skip
    streamed = pull_layers(current, opened, names) if pulling else push_stream_only_stores(current, opened)
    stores = [name for name in dict.fromkeys(names) if name not in releases and name not in streamed]
    chosen: list[str] = []
    told = [{"pipeline": name, "skipped": f"{name} has no version: its live layer is filled from its stream."}
            for name in streamed if not names or name in names]  # fmt: skip
    if stores or not names:
        # Named ones are looked up below.
        chosen = stores or (remote_pipelines(opened) if pulling else resolve_served_names(current, ()))
    chosen = [name for name in chosen if name not in streamed]
    for name in () if pulling else stores:
        require_published(find_published(current, name, or_model=True))
    with StageProgress() as progress:

        def exchange(name: str) -> dict[str, Any]:
            if name in releases:
                folder = open_releases(current, name)
                try:
                    bring_unsent(current, folder)
                except NotEverywhereError as error:
                    if not pulling:
                        raise
                    return {"skipped": f"Nothing was pulled of {name}, to take nothing back. {error}"}
                if pulling:
                    done = pull_releases(folder, opened, verify=verify)
                else:
                    state = None
                    with suppress(UnavailableError):  # then what is here is pushed
                        state = read_lake_state(current, name)
                    done = push_releases(folder, opened, state)
                return {"version": done.pop("release"), **done}
            if pulling and names and opened.size(f"{name}/CURRENT") is None:
                there = [*remote_pipelines(opened), *list_remote_models(opened)]
                raise NotFoundError(
                    f"The remote serves nothing for {name}.",
                    remedy=f"{known_names_remedy(name, there, where='the remote')} `forecache store push` fills it.",
                )
            store = open_store(current, name)
            if pulling:
                return pull(store, opened, verify=verify, progress=progress.update)
            return push(store, opened, progress=progress.update)

        def has_nothing(name: str) -> bool:
            if pulling:
                return not names and opened.size(f"{name}/CURRENT") is None
            return not names and (name in releases or _is_unpublished(current, name))

        # A release comes after the features that it was trained with.
        done = _run_for_each([*chosen, *releases], exchange, nothing_there=has_nothing)
    # A reader that has not loaded a release of this pull yet still reads what the one before it names.
    if pulling and not names and not any(row.get("moved") for row in done if row["pipeline"] in releases):
        told += [{"pipeline": name, "skipped": f"{name} is removed: no release names it any more."}
                 for name in remove_retired_contracts(current, opened)]  # fmt: skip
    return [*told, *done]


def _select_stores(current: Settings, names: tuple[str, ...]) -> list[str]:
    """The names, each once, without real-time models that are released here, and streams: they have no versions."""
    return [
        name for name in dict.fromkeys(names) if not is_released(current, name) and not is_stream_only(current, name)
    ]


def _is_unpublished(current: Settings, name: str) -> bool:
    from forecache.serve.store import open_store

    return open_store(current, name).pointer().current is None


def _load_redis(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Load the served versions into Redis for those pipelines that it serves; returns one row per pipeline."""
    from forecache.serve.store.push_pull import list_published_names
    from forecache.serve.store.remote_store import RemoteStore, open_store

    current = settings()
    stores = resolve_served_names(current, ()) if not names else _select_stores(current, names)
    chosen = [find_published(current, name, or_model=True) for name in stores]
    with StageProgress() as progress:

        def load(name: str) -> dict[str, Any]:
            store, there = open_store(current, name), load_hook("redis", "open_store")(current, name)
            if not isinstance(store, RemoteStore):
                return there.load(store, verify=True, progress=progress.update)
            with store.hold("push", needs_remote=True, progress=progress.update):
                store.fetch(store.pointer().serving, progress=progress.update)
                return there.load(store, verify=True, progress=progress.update)

        published = [pipeline for pipeline in chosen if names or pipeline.publish is not None]
        in_redis = [pipeline.name for pipeline in published if pipeline.publishing.backend == "redis"]
        kept = {name: split_kept_name(name) for name in list_published_names(current)} if in_redis else {}
        # First, as a reader ends a kept contract that is not where its view is.
        in_redis = [name for name, of in kept.items() if of is not None and of[0] in in_redis] + in_redis
        return _run_for_each(in_redis, load, nothing_there=lambda name: not names and _is_unpublished(current, name))


def _drop_skipped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of pipelines that were not skipped; prints the reasons for the others."""
    for row in rows:
        if "skipped" in row:
            click.echo(f"Skipped: {row['skipped']}", err=True)
    return [row for row in rows if "skipped" not in row]


def _show(rows: list[dict[str, Any]], where: str) -> None:
    cells = [(row["pipeline"], row["version"], row["files"], size(row["bytes"])) for row in _drop_skipped(rows)]
    show_table(("pipeline", where, "files", "travelled"), cells, right=(where, "files", "travelled"))


@command("push", examples="forecache store push churn\nforecache store push --remote s3://bucket/store")
@_PIPELINES
@_REMOTE
def push_command(pipelines: tuple[str, ...], remote: str | None) -> None:
    """Copy the served versions of PIPELINEs (default: all) to the remote; only missing files are transferred.

    Of a real-time model, its current release is copied.

    Pipelines that are declared to be served from Redis are loaded there, too, unless --remote is given: every entry in
    Redis is compared with the one here, and those that Redis has evicted are loaded again.
    """
    in_redis = [] if remote else _load_redis(pipelines)
    rows = [] if in_redis and not settings().store_remote else _exchange(pipelines, remote, pulling=False)
    if wants_json():
        print_json(rows + [{**row, "target": "redis"} for row in in_redis])
        return
    if in_redis:
        cells = [(row["pipeline"], row["version"], row["loaded"]) for row in _drop_skipped(in_redis)]
        where = "served by Redis now"
        show_table(("pipeline", where, "entries loaded"), cells, right=(where, "entries loaded"))
    if rows:
        _show(rows, "served by the remote now")


@command(
    "pull",
    examples="""
    forecache store pull churn
    forecache store pull --remote s3://bucket/store
    forecache store pull --every 30
    """,
)
@_PIPELINES
@_REMOTE
@click.option("--verify", is_flag=True, help="Also read the files that are here already, and fetch damaged ones again.")
@click.option("--every", type=click.FloatRange(min=1), metavar="SECONDS", help="Pull again and again, until SIGTERM.")
def pull_command(pipelines: tuple[str, ...], remote: str | None, verify: bool, every: float | None) -> None:
    """Copy the served versions of PIPELINEs from the remote to this replica, and verify them before they are served.

    Without names, all pipelines that the remote serves; no declarations are needed here. If one fails, the others are
    still pulled. Of a real-time model nothing is pulled while something was done here that could not be brought to the
    lake or the remote yet.
    """
    if every is not None:
        _pull_periodically(lambda: _exchange(pipelines, remote, pulling=True, verify=verify), every)
        return
    rows = _exchange(pipelines, remote, pulling=True, verify=verify)
    show(rows, lambda: _show(rows, "served here now"))


def _pull_periodically(pull: Callable[[], list[dict[str, Any]]], every_s: float) -> None:
    """Pull until SIGTERM or Ctrl-C, which wait for the end of a pull; a failure is reported, and does not end it."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())  # also as process 1 of a container, which has no default
    with PeriodicThread(PULL, lambda: _report_moved(pull()), every_s=lambda: every_s, at_once=True, report=_report):
        stopping.wait()


def _report_moved(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row.get("moved"):
            click.echo(f"{row['pipeline']}: version {row['version']} is served here now.")


def _report(error: Exception) -> None:
    click.echo(str(error), err=True)
