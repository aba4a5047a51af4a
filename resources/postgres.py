"""Storage of Dagster's instance in the PostgreSQL of FORECACHE_DAGSTER_URI; `storage` of `dagster.yaml` names it.

The URL has a password, so that no file and no command line has it.
"""

from contextlib import suppress

from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from sqlalchemy.exc import InternalError

from forecache.base.settings import load_settings
from resources.dagster_internals import InstancePart
from resources.event_log import enable_batches


class _EventLogStorage(PostgresEventLogStorage):
    """Dagster's own, except that two runs may be the first in a pool at the same moment.

    The second run's insert fails, and Dagster goes on in the same transaction, which PostgreSQL refuses.
    """

    def initialize_concurrency_limit_to_default(self, concurrency_key: str) -> bool:
        with suppress(InternalError):
            return super().initialize_concurrency_limit_to_default(concurrency_key)
        return True


class PostgresStorage(InstancePart, DagsterPostgresStorage):
    """Stores runs, events and schedules in one database, over psycopg2, with the events of a range in batches."""

    def __init__(self) -> None:
        enable_batches()
        url = load_settings().dagster_database
        super().__init__(url)
        self._event_log_storage.dispose()
        self._event_log_storage = _EventLogStorage(url)
