"""The folder of a run's artifacts to write into; a trial never writes into that of a run that it has only forked."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from forecache.base.settings import Settings
from forecache.models.tracking.records import find_run_folder, local_folder


def own_run_folder(settings: Settings, run_id: str) -> Path | None:
    """The folder of a run's artifacts if it is on this machine; in a trial, a copy that the run has from then on."""
    if settings.base is None:
        return find_run_folder(settings, run_id)
    root = settings.mlflow_artifact_root
    database = settings.mlflow_tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("begin immediate")  # two processes do not copy at once
        uri, experiment = connection.execute(
            "select artifact_uri, experiments.name from runs join experiments using (experiment_id) where run_uuid = ?",
            (run_id,),
        ).fetchone()
        if not uri.startswith(f"{root}/"):
            own = f"{root}/{experiment}/{run_id}/artifacts"
            _copy(uri, _path(own))
            connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (own, run_id))
            uri = own
    _path(uri).mkdir(parents=True, exist_ok=True)
    return _path(uri)


def _copy(uri: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = local_folder(uri)
    if source is not None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    elif urlsplit(uri).scheme not in ("", "file"):
        import mlflow

        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
