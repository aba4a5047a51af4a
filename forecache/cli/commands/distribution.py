"""Versions on other machines: `push`, `pull`."""

from typing import Any

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_table, size, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.runner import chosen_pipelines
from forecache.errors import SettingsError

_PIPELINES = click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
_REMOTE = click.option("--remote", help="Folder or s3:// URI; default: FORECACHE_STORE_REMOTE.")


def _transfer(names: tuple[str, ...], remote: str | None, *, pulling: bool) -> None:
    from forecache.store import open_remote, open_store, pull, push

    current = settings()
    uri = remote or current.store_remote
    if not uri:
        raise SettingsError(
            "There is no remote to exchange versions with.", remedy="Set FORECACHE_STORE_REMOTE or give --remote."
        )
    opened = open_remote(uri, current.storage_options)
    rows: list[dict[str, Any]] = []
    with StageProgress() as progress:
        for name in chosen_pipelines(current, names):
            store = open_store(current, name)
            moved = (pull if pulling else push)(store, opened, progress=progress.update)
            rows.append({"pipeline": name, **moved})
    if wants_json():
        print_json(rows)
        return
    cells = [(row["pipeline"], row["version"], row["files"], size(row["bytes"])) for row in rows]
    where = "served here now" if pulling else "served by the remote now"
    show_table(("pipeline", where, "files", "travelled"), cells, right=(where, "files", "travelled"))


@command("push", examples="forecache push churn\nforecache push --remote s3://bucket/store")
@_PIPELINES
@_REMOTE
def push_command(pipelines: tuple[str, ...], remote: str | None) -> None:
    """Bring the remote up to the served versions of PIPELINEs (default: all); only what it lacks travels."""
    _transfer(pipelines, remote, pulling=False)


@command("pull", examples="forecache pull churn\nforecache pull --remote s3://bucket/store")
@_PIPELINES
@_REMOTE
def pull_command(pipelines: tuple[str, ...], remote: str | None) -> None:
    """Bring this replica up to what the remote serves of PIPELINEs (default: all), checked before it is served."""
    _transfer(pipelines, remote, pulling=True)
