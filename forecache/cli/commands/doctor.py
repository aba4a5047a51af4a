"""`forecache doctor`: checks what Forecache needs, and gives a remedy for what is missing."""

from collections.abc import Callable
from functools import partial

import click

from forecache.base.errors import ForecacheError
from forecache.base.plugins import find_checks, find_hooks
from forecache.base.settings import Settings, load_settings
from forecache.cli.base import command
from forecache.cli.checks import Finding, machine, state
from forecache.cli.checks.releases import check_releases
from forecache.cli.checks.services import check_registered_models, check_sources
from forecache.cli.output import print_json, show_table, wants_json


def _checks(settings: Settings) -> list[tuple[str, Callable[[], Finding]]]:
    host, ui_host = settings.reader_host, "127.0.0.1"
    return [
        ("java", lambda: machine.check_java(settings)),
        ("spark jars", lambda: machine.check_jars(settings)),
        ("home", lambda: machine.check_disk(settings)),
        ("memory", lambda: machine.check_memory(settings)),
        ("reader port", lambda: machine.check_port("reader port", "FORECACHE_READER_PORT", host, settings.reader_port)),
        ("ui port", lambda: machine.check_port("ui port", "FORECACHE_DAGSTER_PORT", ui_host, settings.dagster_port)),
        ("pipelines", lambda: state.check_project(settings)),
        ("sources", lambda: check_sources(settings)),
        ("lake", lambda: state.check_lake(settings)),
        ("mlflow", lambda: state.check_mlflow(settings)),
        ("models", lambda: check_registered_models(settings)),
        ("stores", lambda: state.check_stores(settings)),
        ("releases", lambda: check_releases(settings)),
        ("rollbacks", lambda: state.check_rollbacks(settings)),
        *((name, partial(check, settings)) for name, check in find_checks()),
    ]


def run_checks(*, deep: bool = False) -> list[Finding]:
    """Every check's finding; a check that raises a ForecacheError has failed, with that error's message."""
    try:
        settings = load_settings()
    except ForecacheError as error:
        return [Finding("settings", "fail", error.message, error.remedy)]
    findings = [state.check_variables()]
    checks = _checks(settings)
    if deep:
        checks.append(("table files", lambda: state.check_files(settings)))
        checks += [("store files", partial(check, settings)) for check in find_hooks("check_bytes")]
    for name, check in checks:
        try:
            findings.append(check())
        except ForecacheError as error:
            findings.append(Finding(name, "fail", error.message, error.remedy))
    return findings


@command("doctor", examples="forecache doctor\nforecache doctor --json")
@click.option("--deep", is_flag=True, help="Read every data file of the lake and of the stores, too.")
@click.pass_context
def doctor(context: click.Context, deep: bool) -> None:
    """Check Java, jars, disk, memory, ports, settings, project, sources, lake, MLflow, stores, mail and alerts.

    Exits with 1 if one fails.
    """
    findings = run_checks(deep=deep)
    failed = any(finding.state == "fail" for finding in findings)
    if wants_json():
        print_json({"ok": not failed, "findings": findings})
    else:
        from rich.text import Text

        colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
        rows = [
            (Text(finding.state, style=colours[finding.state]), finding.check, finding.found, finding.remedy)
            for finding in findings
        ]
        show_table(("", "check", "found", "what to do"), rows)
    context.exit(1 if failed else 0)
