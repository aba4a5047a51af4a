"""`forecache demo`: the main job on the project's demo data, from landing files to a served answer, step by step."""

import json
import time
from collections.abc import Sequence
from datetime import date
from typing import Any

import click

from forecache.base.plugins import is_installed, load_hook
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.cli.base import command, settings
from forecache.cli.commands.models import collect_verdicts, show_models
from forecache.cli.orchestrator import run_job
from forecache.cli.output import (
    format_cell,
    format_duration,
    print_json,
    show_stages,
    show_table,
    stage_dict,
    wants_json,
)
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import resolve_nightly_names
from forecache.declare import FeatureView, Pipeline, Realtime, Served
from forecache.declare.as_of import newest_as_of
from forecache.declare.loading import load_nightly
from forecache.declare.served import NightlyDeclaration, PluginTable
from forecache.plugins.new_project.demo_data import land_demo_data
from forecache.plugins.new_project.reader_process import ReaderProcess

_TIMES = 20
_SHOWN = 5


def ask_recorded_request(settings: Settings, reader: ReaderProcess, realtime: Realtime) -> list[dict[str, Any]]:
    """Send a request of the last day that has examples, again until the model itself answers it, a few times at most.

    Returns:
        One entry with `name`, `request` and `answer`; [] for a model without examples.
    """
    from forecache.operations.release import recorded_requests

    recorded = recorded_requests(settings, realtime.name)
    if not recorded:
        return []
    answer = reader.post_request(realtime.name, recorded[0])
    for _ in range(_TIMES):
        if answer["answered_by"] == "model":
            break
        answer = reader.post_request(realtime.name, recorded[0])
    return [{"name": realtime.name, "request": json.loads(recorded[0]), "answer": answer}]


def show_request_and_answer(each: dict[str, Any]) -> None:
    """Print a request without its candidates, and the first items or the value of its answer."""
    name, answer = each["name"], each["answer"]
    request = {key: value for key, value in each["request"].items() if not isinstance(value, list)}
    took = f"{answer['timings_ms']['total']:g} ms of {answer['deadline_ms']:g}"
    click.echo(f"POST /v1/{name} {json.dumps(request)}: answered by {answer['answered_by']} in {took}")
    if "value" in answer:
        click.echo(f"  {json.dumps(answer['value'])}\n")
        return
    items = answer["items"][:_SHOWN]
    rows = [tuple(format_cell(value) for value in item.values()) for item in items]
    show_table(tuple(items[0]), rows, title=f"The first {len(items)} of {len(answer['items'])} candidates")
    click.echo()


_MOST_ITEMS = 3


@command(
    "demo",
    examples="""
    forecache demo
    forecache demo --pipeline churn --keep      # leave the reader running
    forecache demo --s3                         # the same, with lake and store on a MinIO started here
    forecache demo --json > demo.json
    """,
)
@click.option("--pipeline", "names", multiple=True, help="Only this pipeline; repeatable. Default: all.")
@click.option("--keep", is_flag=True, help="Leave the reader running and print how to stop it.")
@click.option("--s3", is_flag=True, help="With landing zone, lake, checkpoints and store on an S3 server started here.")
def demo(names: tuple[str, ...], keep: bool, s3: bool) -> None:
    """Run the main job on the project's demo data and show what happened.

    Lands the data, ingests and checks them, builds features, trains with torchrun, registers the model, judges it
    by the gate, scores every key, publishes, starts the reader and queries it. Another run redoes only what has
    changed.
    """
    if not s3:
        _run(names, keep=keep)
        return
    from forecache.plugins.new_project.local_s3 import run_local_s3

    with run_local_s3(settings().home_path / "demo-s3"):
        _run(names, keep=keep)


def _run(names: tuple[str, ...], *, keep: bool) -> None:
    started = time.perf_counter()
    current = settings()
    pipelines = [load_nightly(current, name) for name in resolve_nightly_names(current, names)]
    trained = [each for each in pipelines if isinstance(each, (Pipeline, Realtime)) and each.is_trained]
    with StageProgress() as progress:
        stages = land_demo_data(current, progress=progress.update)
        for stage in stages:
            progress.print_stage(stage)
        night = min(map(newest_as_of, pipelines))
        stages += run_job(
            current,
            pipelines=[pipeline.name for pipeline in pipelines],
            nights=(night, night),
            job="full",
            progress=progress.update,
            on_stage=progress.print_stage,
        )
        progress.update("writing the report")
        predicting = [each for each in pipelines if not isinstance(each, (FeatureView, Realtime))]
        made = [pipeline for pipeline in pipelines if isinstance(pipeline, NightlyDeclaration)]
        shown = trained if is_installed("model_reports") else []
        reported: list[Pipeline | Realtime | NightlyDeclaration] = [*shown, *made]
        reports = {pipeline.name: _write_report(current, pipeline, stages, night) for pipeline in reported}
        progress.update("starting the reader")
        with ReaderProcess(current) as reader:
            answers = [
                reader.get_answer(pipeline.name, key, limit=_limit(pipeline)) | {"pipeline": pipeline.name}
                for pipeline in predicting
                if pipeline.publish is not None
                for key in sample_keys(current, pipeline, night)
            ]
            asked_for = [
                each
                for model in pipelines
                if isinstance(model, Realtime)
                for each in ask_recorded_request(current, reader, model)
            ]
            if keep:
                reader.keep_running()
    models = collect_verdicts(current, trained)
    if wants_json():
        print_json(
            {
                "stages": [stage_dict(stage) for stage in stages],
                "models": models,
                "answers": answers,
                "asked": asked_for,
                "reports": reports,
                "reader": reader.address,
                "reader_pid": reader.pid if keep else None,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        return
    click.echo()
    show_stages(stages, title="Stages")
    if models:
        show_models(models)
    _show_answers(answers)
    for each in asked_for:
        show_request_and_answer(each)
    _print_next_steps(current, predicting, reports, answers)
    skipped = sum(stage.skipped for stage in stages)
    click.echo(
        f"Done in {format_duration(time.perf_counter() - started)}: {len(stages)} stages, {skipped} of "
        "them already current."
    )
    if answers:
        _print_served(reader, answers[0], keep=keep)


def sample_keys(settings: Settings, pipeline: Pipeline | PluginTable, night: date) -> list[str]:
    """Three example keys: those with the lowest, the middle and the highest output, or key of a list."""
    from forecache.lake.query import query

    columns = ", ".join(pipeline.key)
    order = columns if isinstance(pipeline, PluginTable) else f"{pipeline.main_output.name}, {columns}"
    rows = query(
        settings,
        f"""
        with ranked as (
            select {columns}, row_number() over (order by {order}) as place,
                count(*) over () as n
            from {pipeline.prediction_table} where as_of = date '{night.isoformat()}'
        )
        select {columns} from ranked where place in (1, (n + 1) // 2, n) order by place
        """,
    ).to_pylist()
    from forecache.serve.store.keys import escape_part

    parts = [[str(row[name]) for name in pipeline.key] for row in rows]
    return [part[0] if len(part) == 1 else "|".join(escape_part(text) for text in part) for part in parts]


def _limit(pipeline: Pipeline | PluginTable) -> int | None:
    return _MOST_ITEMS if isinstance(pipeline, PluginTable) else None


def _write_report(
    settings: Settings, pipeline: Pipeline | Realtime | NightlyDeclaration, stages: list[StageResult], night: date
) -> str:
    """Write the report of the version that this run registered, or of the lists; returns its path."""
    if isinstance(pipeline, NightlyDeclaration):
        return str(load_hook(pipeline.plugin, "write_report")(settings, pipeline, night))

    (registered,) = [s for s in stages if s.stage == "register" and s.subject == pipeline.name]
    views = {view.name for view in pipeline.views}
    subjects = {pipeline.name, *views, *(source.name for source in pipeline.all_sources)}
    # Of a view that pipelines share, only the stage that built it.
    own = [s for s in stages if s.subject in subjects and not (s.skipped and s.subject in views)]
    write_report = load_hook("model_reports", "write_model_report")
    return str(write_report(settings, pipeline, registered.details["model_version"], stages=own))


def _show_answers(answers: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{answer['pipeline']}/{answer['key']}",
            ", ".join(f"{name} {_format_value(value)}" for name, value in answer["value"].items()),
            answer["store_version"],
            f"{answer['model']['name']} {answer['model']['version']}",
            answer["as_of"],
            answer["stale"],
        )
        for answer in answers
    ]
    columns = ("asked for", "answered", "store version", "model", "as of", "stale")
    show_table(columns, rows, title="Answers of the reader", right=("store version",))
    if any(answer["stale"] for answer in answers):
        click.echo("The data end before today, so that the answers are flagged as stale, as the pipelines declare.")
    click.echo()


def _format_value(value: object) -> str:
    """A value for people; for a list, its items."""
    if not isinstance(value, list):
        return format_cell(value)
    return ", ".join(str(item["item"]) if isinstance(item, dict) else format_cell(item) for item in value)


def _print_next_steps(
    settings: Settings, pipelines: Sequence[Served], reports: dict[str, str], answers: list[dict[str, Any]]
) -> None:
    for name, path in reports.items():
        click.echo(f"Report of {name}: {path}")
    if settings.lake_is_remote:
        click.echo(f"The lake was {settings.lake_uri}, the store's remote {settings.store_remote}.")
        click.echo(f"Their server was stopped; everything is under {settings.home_path}.\n")
        return
    click.echo(f"Everything is under {settings.home_path}.")
    click.echo("\nWhat next:")
    steps = [
        *(_ask_steps(next(each for each in pipelines if each.publish is not None), answers[0]) if answers else ()),
        *(
            (f'forecache query "select * from {each.served_table} limit 5"', "SQL over the lake")
            for each in pipelines[:1]
        ),
        ("forecache serve", "start the reader again"),
        ("forecache dev", "the orchestrator's UI, with the tables that this demo has built"),
        (f"less {settings.project.replace('.', '/')}/pipelines/*.py", "the declarations; copy one to add a pipeline"),
    ]
    width = max(len(what) for what, _ in steps)
    for what, why in steps:
        click.echo(f"  {what:<{width}}  {why}")
    click.echo()


def _ask_steps(pipeline: Served, answer: dict[str, Any]) -> list[tuple[str, str]]:
    asked = f"{pipeline.name} {answer['key']}"
    if isinstance(pipeline, PluginTable):
        return [(f"forecache get {asked}", "read an answer from the store")]
    return [(f"forecache explain {asked}", "follow an answer back to its data and model")]


def _print_served(reader: ReaderProcess, answer: dict[str, Any], *, keep: bool) -> None:
    """Print the last lines: the reader's address and an answer that it served."""
    state = f"runs as process {reader.pid}; stop it with: kill {reader.pid}" if keep else "was stopped again"
    click.echo(f"Reader: {reader.address} ({state})")
    served = {name: value for name, value in answer.items() if name != "pipeline"}
    limit = _MOST_ITEMS if any(isinstance(value, list) for value in answer["value"].values()) else None
    click.echo(f"GET {reader.answer_path(answer['pipeline'], answer['key'], limit=limit)}")
    click.echo(json.dumps(served))
