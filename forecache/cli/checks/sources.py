"""Check of what sources name outside the lake: existing tables and databases."""

from forecache.cli.checks.finding import Finding
from forecache.settings import Settings


def check_sources(settings: Settings) -> Finding:
    """Open every existing table, and connect to every database, that a source of the project names.

    Raises:
        ForecacheError: One cannot be used; the message names the source.
    """
    from forecache.lake.sources.databases.database import require_database
    from forecache.lake.sources.tables.pins import Pins
    from forecache.pipeline import Query, TableSource
    from forecache.pipeline.loading import read_project

    project = read_project(settings)
    declared = (*project.served.values(), *project.mailings.values())
    sources = {source.name: source for each in declared for source in each.all_sources}.values()
    tables = [source for source in sources if isinstance(source, TableSource)]
    queried = [
        source for source in sources if not isinstance(source, TableSource) and isinstance(source.extract, Query)
    ]
    pins = Pins(settings)
    for table in tables:
        pins.of(table)
    for source in queried:
        require_database(settings, source)
    if not tables and not queried:
        return Finding("sources", "ok", "only landing files")
    return Finding("sources", "ok", f"{len(tables)} existing tables and {len(queried)} queried databases answer")
