"""Advice on settings from measured use, for the project or one real-time model: `advise`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show, show_table, wants_json
from forecache.cli.resolve_names import nothing_released_error, require_release

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.realtime.release.load import LoadedRelease
    from forecache.serve.reader.versions.answers import VersionAnswers

_MIB = 2**20


@command(
    "advise",
    examples="forecache advise\nforecache advise --days 30 --json\nforecache advise search\n"
    "forecache advise search --requests requests.jsonl --cache-mib 256",
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--requests", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="With NAME: a file of requests, one JSON object a line; default: those recorded in the release.",
)  # fmt: skip
@click.option(
    "--cache-mib", type=click.IntRange(min=1), default=64, show_default=True, help="With NAME: memory for a cache."
)
@click.option(
    "--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="Without NAME: days to look at."
)
def advise(name: str | None, requests: Path | None, cache_mib: int, days: int) -> None:
    """Advise what to set differently, with the figures behind each piece of advice and, where measured, what it saves.

    Without NAME it reads the stage ledger, the request logs and Prometheus, and advises on workers and devices of
    trainings, memory and engine of scoring, the number of readers, and batch against real time. With NAME it measures
    requests to this real-time model in this process, and says whether a cache pays and where the model should run.
    """
    if name is None:
        if requests is not None:
            raise click.UsageError("--requests needs the NAME of a real-time model.")
        _advise_project(days)
    else:
        _advise_model(name, requests, cache_mib)


def _advise_project(days: int) -> None:
    from forecache.plugins.cost.sizing_advice import project_advice

    found = project_advice(settings(), days=days)
    if wants_json():
        print_json([vars(each) for each in found])
        return
    if not found:
        click.echo(f"Nothing that was measured in the last {days} days says that anything should be set differently.")
    for each in found:
        saves = [f"{each.saves:.3g} {each.unit}"] if each.saves else []
        saves += [f"{each.price:,.3g}"] if each.price else []
        saved = f" (up to {', '.join(saves)} a day)" if saves else ""
        click.echo(f"{each.about}: {each.do}{saved}\n  {each.why}")


def _advise_model(name: str, requests: Path | None, cache_mib: int) -> None:
    from forecache.plugins.cost.measured_advice import advice_as_dict, cache_advice, measure_requests, place_advice

    current = settings()
    loaded = _load_current_release(current, name)
    with _open_view_answers(current, loaded) as versions:
        asked = loaded.warmup if requests is None else _read_lines(requests)
        found = measure_requests(loaded, versions, asked, cache_bytes=cache_mib * _MIB)
    place = place_advice(found, loaded)
    cache = cache_advice(found, now=loaded.release.cache_bytes, cache_bytes=cache_mib * _MIB)
    answer = advice_as_dict(loaded, found, [place, cache])
    loaded.close()
    show(answer, lambda: _show(answer, "given" if requests else "recorded"))


def _load_current_release(current: "Settings", name: str) -> "LoadedRelease":
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.follow_lake import follow_bucket
    from forecache.realtime.release.load import load_release

    require_release(current, name)
    folder = open_releases(current, name)
    follow_bucket(current, folder)
    number = read_pointer(folder).current
    if number is None:
        raise nothing_released_error(name)
    return load_release(folder, number)


@contextmanager
def _open_view_answers(current: "Settings", loaded: "LoadedRelease") -> "Iterator[dict[str, VersionAnswers]]":
    """Open the served versions of the views that a release looks up."""
    import time

    from forecache.serve.reader.versions.answers import VersionAnswers
    from forecache.serve.store.push_pull import open_fetched_store

    found = {}
    with ExitStack() as stack:
        for view in {lookup.view for lookup in loaded.release.lookups}:
            snapshot = stack.enter_context(open_fetched_store(current, view).snapshot())
            found[view] = VersionAnswers(snapshot)
            found[view].refresh(time.time())
        yield found


def _read_lines(file: Path) -> list[bytes]:
    with click.open_file(str(file), "rb") as lines:
        return [line.strip() for line in lines if line.strip()]


def _show(answer: dict[str, Any], origin: str) -> None:
    rows = [(stage, f"{each['p50']:.3f}", f"{each['p99']:.3f}") for stage, each in answer["stages_ms"].items()]
    caption = (
        f"{answer['name']}, release {answer['release']}: {answer['requests']:,} {origin} requests, "
        f"{answer['distinct']:,} different ones" + (f", {answer['refused']:,} refused" if answer["refused"] else "")
    )
    show_table(("stage", "p50 ms", "p99 ms"), rows, right=("p50 ms", "p99 ms"), caption=caption)
    for each in answer["advice"]:
        value = repr(each["value"]) if isinstance(each["value"], str) else f"{each['value']:_}"
        click.echo(f"{each['field']}={value}: {each['why']}")
