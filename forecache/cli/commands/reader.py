"""The reader: `serve`, and its bearer tokens: `tokens`."""

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from forecache.base.errors import SettingsError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.cli.base import LazyGroup, command, settings
from forecache.cli.output import print_json, show, show_rows, wants_json
from forecache.kit.process.child import run_sidecar
from forecache.realtime.log.spool_files import spooled_models
from forecache.serve.store.live.layer import list_stores_with_layers


@command(
    "serve",
    examples="""
    forecache serve
    forecache serve --host 0.0.0.0 --port 8081 --workers 4
    curl http://127.0.0.1:8080/v1/churn/00042
    """,
)
@click.option("--host", help="Address to listen on; default: FORECACHE_READER_HOST.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: FORECACHE_READER_PORT.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: FORECACHE_READER_WORKERS.")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the published versions over HTTP until interrupted; new versions are picked up automatically."""
    from forecache.realtime.serve import make_inference_only_extension
    from forecache.serve.reader import serve as run_reader

    def say(url: str) -> None:
        click.echo(f"The reader listens on {url}; Ctrl-C stops it.", err=True)

    current = settings()
    with run_committer_sidecar(current), run_tailer_sidecar(current), ExitStack() as sidecars:
        of_plugins = [sidecars.enter_context(run()) for run in find_hooks("reader_sidecar")]
        extensions = [make_inference_only_extension, *of_plugins]
        run_reader(current, host=host, port=port, workers=workers, on_start=say, extensions=extensions)


_HERE = "forecache.cli.commands.reader"
_COMMIT_S, COMMIT_REMOTE_S = 5.0, 60.0


@click.group(
    cls=LazyGroup,
    lazy={
        "create": (f"{_HERE}:create", "Create a token, which is shown only once."),
        "list": (f"{_HERE}:list_all", "List the tokens, without their secrets."),
        "revoke": (f"{_HERE}:revoke", "Remove a token; running readers refuse it at once."),
    },
)
def tokens() -> None:
    """Create, list and revoke the bearer tokens that readers require if FORECACHE_READER_TOKENS names a file."""


def _token_file(file: Path | None) -> Path:
    path = file or settings().reader_tokens
    if path is None:
        raise SettingsError(
            "There is no token file.", remedy="Set FORECACHE_READER_TOKENS, also for the reader, or give --file."
        )
    return path


_FILE = click.option("--file", type=click.Path(path_type=Path), help="Token file; default: FORECACHE_READER_TOKENS.")


@command(
    "create",
    examples="""
    forecache tokens create shop --scope churn --expires-days 90
    forecache tokens create prometheus --scope +metrics
    """,
)
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="A pipeline, '*' for all, '+metrics'; repeatable. Default: '*'.")
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), help="Default: it does not expire.")
@_FILE
def create(name: str, scopes: tuple[str, ...], expires_days: float | None, file: Path | None) -> None:
    """Create a token for NAME and show it, only this once: the file has only its hash."""
    from forecache.serve.reader.tokens import create_token

    path = _token_file(file)
    token, record = create_token(path, name, scopes or ("*",), expires_days=expires_days)
    if wants_json():
        print_json({"token": token, **_public(record)})
    else:
        click.echo(token)
        until = f" until {record.expires_at}" if record.expires_at else ""
        click.echo(f"Token {record.id} for {record.name}: {', '.join(record.scopes)}{until}. Keep it now.", err=True)


@command("list", examples="forecache tokens list\nforecache tokens list --json")
@_FILE
def list_all(file: Path | None) -> None:
    """List the tokens with their users, scopes and expiry."""
    from forecache.serve.reader.tokens import list_tokens

    found = [_public(record) for record in list_tokens(_token_file(file))]
    rows = [
        (item["id"], item["name"], ", ".join(item["scopes"]), item["created_at"], item["expires_at"] or "never")
        for item in found
    ]
    show_rows(found, ("id", "name", "scopes", "created", "expires"), rows)


@command("revoke", examples="forecache tokens revoke 3f9a0c2b71de")
@click.argument("token_id", metavar="ID")
@_FILE
def revoke(token_id: str, file: Path | None) -> None:
    """Remove the token with ID, the twelve hex digits that `tokens list` shows."""
    from forecache.serve.reader.tokens import revoke_token

    record = revoke_token(_token_file(file), token_id)
    show(_public(record), f"Revoked token {record.id} of {record.name}.")


def _public(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("id", "name", "scopes", "created_at", "expires_at")}


@contextmanager
def run_committer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a committer of the request log during the block; at its end, commit the rest if the lake is quick.

    If the lake is in a bucket, the disk of this machine may go with the reader, so that the committer has longer then.
    """
    if settings.request_log_committer == "off" or not _has_lake():
        yield
        return
    what = "The committer of the request log"
    last_s = COMMIT_REMOTE_S if settings.lake_is_remote else _COMMIT_S
    with run_sidecar(
        ["log", "commit"], what=what, last_s=last_s,
        is_needed=lambda: bool(spooled_models(settings.request_log_path)),
    ):  # fmt: skip
        yield


@contextmanager
def run_tailer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a tailer for the live layers of this machine's stores during the block."""
    if settings.stream_tailer == "off" or not _has_lake():
        yield
        return
    with run_sidecar(
        ["stream", "tail"], what="The tailer", is_needed=lambda: bool(list_stores_with_layers(settings.store_path))
    ):
        yield


def _has_lake() -> bool:
    return importlib.util.find_spec("deltalake") is not None
