"""`forecache doctor`: checks what Forecache needs, and gives a remedy for what is missing."""

from collections.abc import Callable

import click

from forecache.base.errors import ForecacheError
from forecache.base.plugins import find_checks, find_hooks
from forecache.base.settings import Settings, load_settings
from forecache.cli.base import Finding, command
from forecache.cli.output import print_json, show_table, wants_json
from forecache.plugins.doctor import checks, shared_services, training

_CHECKS: list[tuple[str, Callable[[Settings], Finding]]] = [
    ("settings", checks.check_variables),
    ("java", checks.check_java),
    ("spark jars", checks.check_jars),
    ("home", checks.check_disk),
    ("memory", checks.check_memory),
    ("reader port", checks.check_reader_port),
    ("ui port", checks.check_ui_port),
    ("pipelines", checks.check_project),
    ("sources", checks.check_sources),
    ("training dates", training.check_training_dates),
    ("lake", checks.check_lake),
    ("mlflow", checks.check_mlflow),
    ("dagster", shared_services.check_dagster),
    ("machines", shared_services.check_machines),
    ("streams", shared_services.check_streams),
    ("models", checks.check_registered_models),
    ("champions", training.check_champions),
    ("stores", checks.check_stores),
    ("releases", checks.check_releases),
    ("rollbacks", checks.check_rollbacks),
    ("leases", checks.check_leases),
]


def run_checks(*, deep: bool = False) -> list[Finding]:
    """Every check's finding; a check that raises a ForecacheError has failed, with that error's message."""
    try:
        settings = load_settings()
    except ForecacheError as error:
        return [Finding("settings", "fail", error.message, error.remedy)]
    findings = []
    chosen = [*_CHECKS, *find_checks()]
    if deep:
        chosen += [
            ("table files", checks.check_files),
            *(("store files", check) for check in find_hooks("check_bytes")),
        ]
    for name, check in chosen:
        try:
            findings.append(check(settings))
        except ForecacheError as error:
            findings.append(Finding(name, "fail", error.message, error.remedy))
    return findings


@command("doctor", examples="forecache doctor\nforecache doctor --json")
@click.option("--deep", is_flag=True, help="Read every data file of the lake and of the stores, too.")
@click.pass_context
def doctor(context: click.Context, deep: bool) -> None:
    """Check Java, jars, disk, memory, ports, settings, project, sources, lake, MLflow, Dagster, streams, stores,
    leases, mail, alerts.

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
