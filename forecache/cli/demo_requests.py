"""The requests of `forecache demo` to real-time models: a past request of each, over HTTP."""

import json
from typing import Any

import click

from forecache.cli.output import cell, show_table
from forecache.cli.reader_process import ReaderProcess
from forecache.pipeline import Realtime
from forecache.settings import Settings

_TIMES = 20
_SHOWN = 5


def asked(settings: Settings, reader: ReaderProcess, realtime: Realtime) -> list[dict[str, Any]]:
    """Send a request of the last day that has examples, again until the model itself answers it, a few times at most.

    Returns:
        One entry with `name`, `request` and `answer`; [] for a model without examples.
    """
    from forecache.lake.examples.recorded import recorded_requests_file

    file = recorded_requests_file(settings, realtime.name)
    recorded: list[str] = json.loads(file.read_text()) if file.is_file() else []
    if not recorded:
        return []
    answer = reader.ask(realtime.name, recorded[0])
    for _ in range(_TIMES):
        if answer["rung"] == "model":
            break
        answer = reader.ask(realtime.name, recorded[0])
    return [{"name": realtime.name, "request": json.loads(recorded[0]), "answer": answer}]


def show_asked(each: dict[str, Any]) -> None:
    """Print a request without its candidates, and the first items or the value of its answer."""
    name, answer = each["name"], each["answer"]
    request = {key: value for key, value in each["request"].items() if not isinstance(value, list)}
    took = f"{answer['timings_ms']['total']:g} ms of {answer['deadline_ms']:g}"
    click.echo(f"POST /v1/{name} {json.dumps(request)}: answered by {answer['rung']} in {took}")
    if "value" in answer:
        click.echo(f"  {json.dumps(answer['value'])}\n")
        return
    items = answer["items"][:_SHOWN]
    rows = [tuple(cell(value) for value in item.values()) for item in items]
    show_table(tuple(items[0]), rows, title=f"The first {len(items)} of {len(answer['items'])} candidates")
    click.echo()
