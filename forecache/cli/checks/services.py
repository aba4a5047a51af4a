"""Checks of services: receivers of alerts, the SMTP server, existing tables, databases, and registered models."""

import os

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.cli.checks import Finding


def check_alerts(settings: Settings) -> Finding:
    """Check the settings of the receivers of alerts, and find receivers that notices still wait for.

    Raises:
        SettingsError: The settings are wrong.
    """
    from forecache.plugins.alerts.database import database_file
    from forecache.plugins.alerts.outbox import Outbox
    from forecache.plugins.alerts.receivers.configured import configured_alert_receivers

    sinks = [sink.name for sink in configured_alert_receivers(settings)]
    if not sinks:
        return Finding("alerts", "ok", "no receiver is set")
    if database_file(settings).is_file():
        for sink in sinks:
            waiting = Outbox(settings, sink).read_state()
            if waiting.reason:
                found = f"{waiting.notices} wait for {sink}: {waiting.reason}"
                return Finding("alerts", "warn", found, "Mend that; `forecache alerts --test` tries it.")
    return Finding("alerts", "ok", f"told to {', '.join(sinks)}")


_TIMEOUT_S = 5.0


def check_mail(settings: Settings) -> Finding:
    """Connect to the SMTP server and log in, if the project declares a mailing.

    Raises:
        ForecacheError: The settings are wrong, or the server cannot be used.
    """
    from forecache.declare.loading import read_project
    from forecache.plugins.mail.relay import Relay

    mailings = ", ".join(read_project(settings).mailings)
    if not mailings:
        return Finding("mail", "ok", "no mailing is declared")
    if not settings.smtp_host:
        remedy = "Set FORECACHE_SMTP_HOST; `forecache mail --dry-run` needs none."
        return Finding("mail", "warn", f"no SMTP server is set for {mailings}", remedy)
    impatient = settings.model_copy(update={"smtp_timeout_s": min(settings.smtp_timeout_s, _TIMEOUT_S)})
    with Relay(impatient, tries=1) as relay:
        relay.check()
    return Finding("mail", "ok", f"{settings.smtp_host}:{settings.smtp_port} takes connections, for {mailings}")


def check_sources(settings: Settings) -> Finding:
    """Open every existing table, and connect to every database, that a source of the project names.

    Raises:
        ForecacheError: One cannot be used; the message names the source.
    """
    from forecache.declare import Query, TableSource
    from forecache.declare.loading import read_project
    from forecache.lake.sources.tables.pins import Pins
    from forecache.plugins.databases.database import require_database

    project = read_project(settings)
    declared = (*project.publishable.values(), *project.mailings.values())
    sources = {source.name: source for each in declared for source in each.all_sources}.values()
    tables = [source for source in sources if isinstance(source, TableSource)]
    queried = [
        source for source in sources if not isinstance(source, TableSource) and isinstance(source.extract, Query)
    ]
    pins = Pins(settings)
    for table in tables:
        pins.pin(table)
    for source in queried:
        require_database(settings, source)
    if not tables and not queried:
        return Finding("sources", "ok", "only landing files")
    return Finding("sources", "ok", f"{len(tables)} existing tables and {len(queried)} queried databases answer")


def check_registered_models(settings: Settings) -> Finding:
    """Resolve each registered model's URI in MLflow, and load the model as a nightly run does."""
    from forecache.declare import RegisteredModel
    from forecache.declare.loading import read_project

    pipelines = read_project(settings).pipelines.values()
    applied = [(pipeline, pipeline.model) for pipeline in pipelines if isinstance(pipeline.model, RegisteredModel)]
    if not applied:
        return Finding("models", "ok", "no pipeline applies a registered model")
    from forecache.models.registry.applied.resolve import resolve_uri
    from forecache.models.registry.applied.scoring_plan import plan_model

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow retries for minutes by default
    found, problems = [], []
    for pipeline, model in applied:
        try:
            version = resolve_uri(settings, pipeline, model)
            plan_model(settings, pipeline, version)
            found.append(f"{pipeline.name}: {model.uri} is {f'version {version.version}' if model.name else 'there'}")
        except ForecacheError as error:
            problems.append(error)
    if problems:
        return Finding("models", "fail", " ".join(error.message for error in problems), problems[0].remedy)
    return Finding("models", "ok", "; ".join(found))
