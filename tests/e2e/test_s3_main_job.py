"""The main job on a real S3-compatible server: the same published values as on a folder, and no secret to be seen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloud_project.pipelines.trips import DAYS, NUM_RIDERS, landing_file
from secrets_found import command_lines, files_with
from store_services import minio_server

from forecache.base.folders import open_bucket
from forecache.base.settings import Settings, load_settings
from forecache.lake.query import query
from forecache.plugins.new_project.reader_process import ReaderProcess
from forecache.serve.store import Store, open_remote, pull, split_entry
from jobs.runner import run

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

SUPPORT = Path(__file__).parents[1] / "support"
QUESTION = """
    select (select count(*) from raw_trips) raw, (select count(*) from quarantine_trips) quarantine,
        (select count(*) from features_trips) features, (select count(*) from predictions_trips) predictions
"""


def environment(settings: Settings) -> dict[str, str]:
    """What a process of its own needs to work with the settings."""
    names = ("home", "landing", "lake", "project", "spark_master", "spark_driver_memory", "spark_jvm", "device")
    names = (*names, "training_checkpoints", "training_workers", "store_remote")
    given = {f"FORECACHE_{name.upper()}": str(getattr(settings, name)) for name in names}
    return {
        **os.environ,
        **given,
        "FORECACHE_STORAGE_OPTIONS": json.dumps(settings.storage_options),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *(path for path in sys.path if path)]),
    }


def forecache(settings: Settings, *arguments: str) -> Any:
    command = [sys.executable, "-m", "forecache.cli.main", *arguments, "--json"]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def published(store: Store) -> dict[bytes, bytes]:
    """The value bytes of every key of the version that is served."""
    with store.snapshot() as snapshot:
        return {key: split_entry(entry)[0] for key, entry in snapshot.items()}


def test_the_main_job_on_s3_publishes_the_same_bytes_as_on_a_folder_and_shows_no_secret(
    tmp_path: Path, spark: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    common = {"project": "cloud_project", "spark_master": "local[2]", "spark_driver_memory": "1g", "device": "cpu"}
    common |= {"spark_jvm": "short", "training_workers": 1}
    local = load_settings(home=tmp_path / "local", **common)
    folder = Path(local.landing_uri) / "trips"
    folder.mkdir(parents=True)
    for day in DAYS:
        (folder / f"{day}.csv").write_text(landing_file(day))
    run(local, pipelines=["trips"], job="full")
    expected = published(Store(local.store_path / "trips"))
    assert len(expected) == NUM_RIDERS

    with minio_server(tmp_path / "minio", "cloud") as options:
        remote = load_settings(
            home=tmp_path / "remote",
            landing="s3://cloud/landing",
            lake="s3://cloud/lake",
            training_checkpoints="s3://cloud/checkpoints",
            store_remote="s3://cloud/store",
            storage_options=options,
            **common,
        )
        import obstore

        bucket = open_bucket("s3://cloud/landing/trips", options)
        for day in DAYS:
            obstore.put(bucket, f"{day}.csv", landing_file(day).encode())
        with command_lines() as lines:
            stages = forecache(remote, "run", "trips", "--job", "full")
        assert [stage["stage"] for stage in stages if stage["skipped"]] == []
        assert published(Store(remote.store_path / "trips")) == expected
        assert query(remote, QUESTION) == query(local, QUESTION)

        # Another machine has nothing but the bucket.
        replica = Store(tmp_path / "replica" / "trips")
        pull(replica, open_remote(remote.store_remote, options))
        assert published(replica) == expected

    assert any("org.apache.spark.deploy.SparkSubmit" in line for line in lines)
    assert any("forecache.plugins.torch.agent" in line for line in lines)
    secret = options["AWS_SECRET_ACCESS_KEY"]
    assert [line for line in lines if secret in line] == []
    assert files_with(secret, remote.home_path, tmp_path / "minio" / "data", without=(".minio.sys",)) == []

    served = load_settings(home=tmp_path / "reader", store=str(tmp_path / "replica"))
    monkeypatch.setenv("FORECACHE_HOME", str(served.home_path))
    monkeypatch.setenv("FORECACHE_STORE", served.store)
    served.home_path.mkdir()
    with ReaderProcess(served) as reader:
        answer = reader.get_answer("trips", "r0001")
    assert answer["value"] == json.loads(expected[b"r0001"])
