"""Storage of Dagster's instance in the PostgreSQL of FORECACHE_DAGSTER_URI; `storage` of `dagster.yaml` names it.

The URL has a password, so that no file and no command line has it.
"""

from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage

from forecache.base.settings import load_settings
from resources.dagster_internals import ConfigurableClassData
from resources.event_log import enable_batches


class PostgresStorage(DagsterPostgresStorage):
    """Stores runs, events and schedules in one database, over psycopg2, with the events of a range in batches."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PostgresStorage":
        enable_batches()
        return cls(load_settings().dagster_database, inst_data=inst_data)
