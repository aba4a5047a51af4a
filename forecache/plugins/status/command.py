"""`forecache status`: how a reader and the project are, on one screen."""

import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from forecache.base.errors import InputError, UnavailableError
from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json


@command(
    "status",
    examples="""
    forecache status                                  # this project, and the reader of its settings
    forecache status --url http://reader-1:8080       # another reader
    forecache status --watch
    found=$(forecache status 2>&1) || echo "$found" | mail -s "Forecache" me@example.com
    """,
)
@click.option("--url", help="A running reader; default: the one at FORECACHE_READER_HOST and _PORT, if it runs.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a token that covers '+metrics'.")
@click.option("--watch", is_flag=True, help="Show it again every few seconds until interrupted.")
@click.option("--every", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Seconds, with --watch.")
@click.pass_context
def status(context: click.Context, url: str | None, token_file: Path | None, watch: bool, every: float) -> None:
    """Show the state of the reader and of the project: traffic, versions, models, last runs, what needs attention.

    Exits with 1 if something needs attention. A browser shows the reader's part at its address /status. `doctor` checks
    the machine and the settings; `forecache store versions` lists what is kept of a pipeline, `forecache release list`
    of a model.
    """
    if watch and wants_json():
        raise click.UsageError("Give --watch or --json, not both.")
    while True:
        found = collect_status(url, token_file)
        if wants_json():
            print_json(found)
        else:
            from forecache.plugins.status.status_text import format_status

            if watch:
                click.clear()
            click.echo(format_status(found))
        if not watch:
            context.exit(0 if found["well"] else 1)
        time.sleep(every)


def collect_status(url: str | None, token_file: Path | None) -> dict[str, Any]:
    """The document of the command: `well`, `attention`, `url`, `reader`, `why_no_reader`, `project`.

    A reader given by `url` has to answer; the one of the settings may not be running.
    """
    from forecache.plugins.status.project_status import project_status

    current = settings()
    address = url or f"http://{_reachable_host(current.reader_host)}:{current.reader_port}"
    attention: list[dict[str, Any]] = []
    reader, why = None, ""
    try:
        reader = ask_status(address, token_from(token_file))
    except UnavailableError as error:
        why = error.message
        if url is not None:
            attention.append({"severity": "critical", "what": error.message, "remedy": error.remedy})
    attention += [] if reader is None else reader["attention"]
    stale = [] if reader is None else [row["name"] for row in reader["versions"] if row["overdue"]]
    project = project_status(current, told=stale)
    known = {each["what"] for each in attention}
    attention += [each for each in project["attention"] if each["what"] not in known]
    attention.sort(key=lambda each: each["severity"] != "critical")
    return {
        "well": not attention,
        "attention": attention,
        "url": address,
        "reader": reader,
        "why_no_reader": why,
        "project": project,
    }


def _reachable_host(host: str) -> str:
    """An address at which a reader of this machine can be reached, for the host that it listens on."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


_TIMEOUT_S = 10.0


def ask_status(url: str, token: str = "") -> dict[str, Any]:
    """The document of a reader's `/status.json`.

    Raises InputError if `url` is no address, or the token is not accepted, and UnavailableError if no reader answers.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no address of a reader.", remedy="Write it like http://127.0.0.1:8080.")
    request = urllib.request.Request(f"{url.rstrip('/')}/status.json")
    if token:
        request.add_unredirected_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = "Give --token-file with a token that covers '+metrics'; `forecache tokens create` makes one."
            raise InputError(f"The reader at {url} refuses to show its status ({error.code}).", remedy=remedy) from None
        raise UnavailableError(
            f"{url} answers {error.code} for /status.json.", remedy="Check that a reader of this version is there."
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else str(error).strip()
        raise UnavailableError(
            f"No reader answers at {url}: {reason}.", remedy="Start one with `forecache serve`, or give its --url."
        ) from None
    if not isinstance(found, dict) or "traffic" not in found:
        raise UnavailableError(f"{url} is no reader.", remedy="Give the address of `forecache serve`.")
    return found


def token_from(file: Path | None) -> str:
    """The token in a file; "" without one."""
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise InputError(f"The token file {file} cannot be read: {error.strerror}.", remedy="Check its path.") from None
    if not token:
        raise InputError(f"The token file {file} is empty.", remedy="Put one token into it.")
    return token
