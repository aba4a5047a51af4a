"""A training whose machine is lost, on a real S3-compatible server: lake and checkpoints are all that is left of it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import write_training_set

from forecache.folders import BucketFolder, Folder
from forecache.pipeline import Training
from forecache.settings import Settings, load_settings
from forecache.training.launch import train
from forecache.training.spec import METRICS_FILE, RESULT_FILE
from forecache.training.worker.checkpoint.checkpoint import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TRAINING = Training(epochs=15, batch_size=64, patience=1000)
PIPELINE = replace(returns, training=TRAINING)
_SCRIPT = """
import json, sys
from dataclasses import replace
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from forecache.pipeline import Training
from forecache.settings import load_settings
from forecache.training.launch import train

train(load_settings(), replace(returns, training=Training(**json.loads(sys.argv[1]))), NIGHT)
"""


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path / "minio", "cloud") as found:
        yield found


def machine(folder: Path, options: dict[str, str], **more: str) -> Settings:
    """Settings of a machine that has nothing but its folder, and of the lake that all share."""
    return load_settings(
        home=folder, project="sample_project", lake="s3://cloud/lake", storage_options=options, device="cpu", **more
    )


def start(settings: Settings, log: Path) -> "subprocess.Popen[bytes]":
    """A process of its own that trains."""
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_PROJECT": settings.project,
        "FORECACHE_LAKE": settings.lake,
        "FORECACHE_STORAGE_OPTIONS": json.dumps(settings.storage_options),
        "FORECACHE_TRAINING_CHECKPOINTS": settings.training_checkpoints,
        "FORECACHE_DEVICE": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with log.open("wb") as output:
        command = [sys.executable, "-c", _SCRIPT, json.dumps(asdict(TRAINING))]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


def committed(place: Folder) -> list[str]:
    """The step folders of the checkpoints that are whole, the oldest first."""
    return sorted(name.split("/")[-2] for name in place.names() if name.endswith(f"/{MARKER}"))


def lose(process: "subprocess.Popen[bytes]") -> int:
    """SIGKILL of the launcher, torchrun's agent and every worker; returns how many those were."""
    if process.poll() is not None:
        return 0
    parent = psutil.Process(process.pid)
    victims = [parent, *parent.children(recursive=True)]
    for victim in victims:
        victim.kill()
    process.wait()
    psutil.wait_procs(victims, timeout=30)
    return len(victims)


def outcome(settings: Settings) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of the only run of a machine, and the events of its starts."""
    [result] = settings.training_path.rglob(RESULT_FILE)
    events = [json.loads(line) for line in result.with_name(METRICS_FILE).read_text().splitlines()]
    return json.loads(result.read_text()), [event for event in events if event["event"] == "start"]


@pytest.mark.timeout(400)
def test_a_machine_that_is_lost_with_its_disk_is_replaced_by_one_that_ends_with_equal_weights_and_samples(
    tmp_path: Path, options: dict[str, str]
) -> None:
    settings = machine(tmp_path / "spot", options, training_checkpoints="s3://cloud/checkpoints")
    write_training_set(settings, returns, rows_per_date=2_000)
    place = BucketFolder("s3://cloud/checkpoints", options)
    process, log = start(settings, tmp_path / "spot.log"), tmp_path / "spot.log"
    deadline = time.monotonic() + 120
    while len(committed(place)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    lost = lose(process)
    assert lost > 3, log.read_text()[-2000:]
    assert len(committed(place)) >= 2, log.read_text()[-2000:]
    newest = committed(place)[-1]
    shutil.rmtree(settings.home_path)

    resumed = train(settings, PIPELINE, NIGHT)
    killed, [went_on] = outcome(settings)
    assert went_on["step"] == int(newest.split("-")[1]) > 0
    assert len(committed(place)) == 2  # retention holds in the bucket, too

    alone = machine(tmp_path / "alone", options)
    whole = train(alone, PIPELINE, NIGHT)
    undisturbed, [began] = outcome(alone)
    assert began["step"] == 0
    assert resumed.details["weights_digest"] == whole.details["weights_digest"]
    assert killed["sample_digests"] == undisturbed["sample_digests"]
    losses = [[(row["train_loss"], row["validation_loss"]) for row in run["history"]] for run in (killed, undisturbed)]
    assert losses[0] == losses[1]
