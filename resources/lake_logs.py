"""Output of the steps of runs, kept in a lake in a bucket, so that it outlives the machine that ran them.

`dagster-aws` has the like for S3 alone. This one reaches the object store of the lake, whatever kind it is, as all else
does: with FORECACHE_STORAGE_OPTIONS.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.kit.installation import open_lake
from forecache.kit.process.wakes import RUN_LOGS
from resources.dagster_internals import (
    CapturedLogSubscription,
    ComputeIOType,
    InstancePart,
    LocalComputeLogManager,
    PollingComputeLogSubscriptionManager,
    TruncatingCloudStorageComputeLogManager,
)

logger = logging.getLogger("forecache")
FOLDER = ".logs"
"""Folder of the lake; a life-cycle rule of the bucket may remove its old objects."""
_PATIENCE_S = 10.0
_SUFFIXES = {ComputeIOType.STDOUT: "out", ComputeIOType.STDERR: "err"}


class LakeLogManager(InstancePart, TruncatingCloudStorageComputeLogManager):
    """Writes the output of a step into the lake when the step ends, and what there is of it every few seconds.

    An object store that cannot be reached costs the output, and never the run.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        settings = settings or load_settings()
        self._folder = open_lake(settings, below=FOLDER, patience_s=_PATIENCE_S)
        self._local = LocalComputeLogManager(str(settings.dagster_home / "logs"))
        self._subscriptions = PollingComputeLogSubscriptionManager(self)

    @property
    def local_manager(self) -> LocalComputeLogManager:
        return self._local

    @property
    def upload_interval(self) -> int:
        return int(RUN_LOGS.every_s)

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        self._local.delete_logs(log_key, prefix)
        if log_key:
            names = [_name(log_key, kind, partial) for kind in _SUFFIXES for partial in (False, True)]
            self._folder.delete([name for name in names if self._folder.size(name) is not None])
        elif prefix:
            self._folder.delete(self._folder.names("/".join(prefix)))

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return self._local.get_captured_log_download_url(log_key, io_type)

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return f"{self._folder}/{_name(log_key, io_type)}"

    def cloud_storage_has_logs(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> bool:
        try:
            return self._folder.size(_name(log_key, io_type, partial)) is not None
        except (ForecacheError, OSError) as error:
            logger.warning("The output of the step %s was not found in %s: %s", log_key[-1], self._folder, error)
            return False

    def download_from_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        try:
            found = self._folder.read(_name(log_key, io_type, partial))
        except (ForecacheError, OSError) as error:
            logger.warning("The output of the step %s was not read from %s: %s", log_key[-1], self._folder, error)
            return
        path = Path(self._local.get_captured_local_path(log_key, _SUFFIXES[io_type], partial=partial))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found[0] if found else b"")

    def _upload_file_obj(
        self, data: IO[bytes], log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        try:
            self._folder.write(_name(log_key, io_type, partial), data.read())
            if not partial and self._folder.size(part := _name(log_key, io_type, partial=True)) is not None:
                self._folder.delete([part])
        except (ForecacheError, OSError) as error:  # the step has done its work
            logger.warning("The output of the step %s was not written to %s: %s", log_key[-1], self._folder, error)

    def on_subscribe(self, subscription: CapturedLogSubscription) -> None:
        self._subscriptions.add_subscription(subscription)

    def on_unsubscribe(self, subscription: CapturedLogSubscription) -> None:
        self._subscriptions.remove_subscription(subscription)

    def dispose(self) -> None:
        self._subscriptions.dispose()
        super().dispose()


def _name(log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> str:
    return f"{'/'.join(log_key)}.{_SUFFIXES[io_type]}{'.partial' if partial else ''}"
