"""Every name of Dagster's private API that this project uses, and the version of Dagster that it was checked with.

Nothing else imports `dagster._...`. After an update of Dagster, run tests/integration/test_dagster_*.py and set
CHECKED_WITH; test_dagster_internals.py fails until then.
"""

from collections.abc import Mapping
from typing import Any

from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterAssetCheckFailedError, DagsterExecutionInterruptedError
from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.api import execute_run_iterator
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, RunLauncher, WorkerStatus
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.cloud_storage_compute_log_manager import (
    PollingComputeLogSubscriptionManager,
    TruncatingCloudStorageComputeLogManager,
)
from dagster._core.storage.compute_log_manager import CapturedLogSubscription, ComputeIOType
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    MAX_RETRIES_TAG,
    PARENT_RUN_ID_TAG,
    PARTITION_NAME_TAG,
    RUN_KEY_TAG,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._record import replace
from dagster._serdes import ConfigurableClass, ConfigurableClassData

CHECKED_WITH = "1.13.27"

__all__ = [
    "ASSET_EVENTS",
    "ASSET_PARTITION_RANGE_END_TAG",
    "ASSET_PARTITION_RANGE_START_TAG",
    "INDEX_SHARD_NAME",
    "MAX_RETRIES_TAG",
    "NOT_FINISHED_STATUSES",
    "PARENT_RUN_ID_TAG",
    "PARTITION_NAME_TAG",
    "RUN_KEY_TAG",
    "AssetCheckEvaluationTargetMaterializationData",
    "CapturedLogSubscription",
    "CheckRunHealthResult",
    "ComputeIOType",
    "DagsterAssetCheckFailedError",
    "DagsterExecutionInterruptedError",
    "DefaultRunLauncher",
    "EventLogEntry",
    "InMemoryJob",
    "InstancePart",
    "LoadableTargetOrigin",
    "LocalComputeLogManager",
    "ManagedGrpcPythonEnvCodeLocationOrigin",
    "NoOpComputeLogManager",
    "PollingComputeLogSubscriptionManager",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "RunLauncher",
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    "SqliteEventLogStorage",
    "TruncatingCloudStorageComputeLogManager",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "execute_run_iterator",
    "replace",
]


class InstancePart(ConfigurableClass):
    """A part of Dagster's instance that `dagster.yaml` names without a `config`: it is made without arguments, and
    finds in the settings what it needs."""

    _inst_data: ConfigurableClassData | None = None

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "InstancePart":
        part = cls()
        part._inst_data = inst_data
        return part
