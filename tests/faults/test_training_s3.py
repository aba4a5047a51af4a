"""A training whose machine is lost, on a real S3-compatible server: lake and checkpoints are all that is left of it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import write_training_set
from waiting import wait_for
from warm import start
from warm_agents import warm_agents

from forecache.base.folders import BucketFolder, Folder
from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.models.training import launch
from forecache.models.training.launch import train
from forecache.models.training.spec import METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch.worker.checkpoints import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TRAINING = Training(epochs=10, batch_size=64, patience=1000)
PIPELINE = replace(returns, training=TRAINING)


@pytest.fixture
def options(tmp_path: Path) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path / "minio", "cloud") as found:
        yield found


def machine(folder: Path, options: dict[str, str], lake: str, **more: str) -> Settings:
    """Settings of a machine that has nothing but its folder, and of the lake that all share."""
    return load_settings(
        home=folder, project="sample_project", lake=lake, storage_options=options, device="cpu", **more
    )


def committed(place: Folder) -> list[str]:
    """The step folders of the checkpoints that are whole, the oldest first."""
    return sorted(name.split("/")[-2] for name in place.names() if name.endswith(f"/{MARKER}"))


def lose(process: Any) -> int:
    """SIGKILL of the launcher, torchrun's agent and every worker; returns how many those were."""
    if process.exitcode is not None:
        return 0
    parent = psutil.Process(process.pid)
    victims = [parent, *parent.children(recursive=True)]
    for victim in victims:
        with suppress(psutil.NoSuchProcess):  # those that end with the one that has started them
            victim.kill()
    process.join()
    psutil.wait_procs(victims, timeout=120)
    return len(victims)


def outcome(settings: Settings) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of the only run of a machine, and the events of its starts."""
    [result] = settings.training_path.rglob(RESULT_FILE)
    events = [json.loads(line) for line in result.with_name(METRICS_FILE).read_text().splitlines()]
    return json.loads(result.read_text()), [event for event in events if event["event"] == "start"]


def has_committed_twice_or_ended(place: Folder, process: Any) -> bool:
    return len(committed(place)) >= 2 or process.exitcode is not None


@pytest.mark.timeout(400)
def test_a_machine_that_is_lost_with_its_disk_is_replaced_by_one_that_ends_with_equal_weights_and_samples(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "TrainingSpec", partial(TrainingSpec, export=False))
    for number in range(10):  # this process may have to wait for longer than a training takes
        place = BucketFolder(f"s3://cloud/checkpoints-{number}", options)
        lake = f"s3://cloud/lake-{number}"
        settings = machine(tmp_path / f"spot-{number}", options, lake, training_checkpoints=str(place))
        write_training_set(settings, returns, rows_per_date=2_000)
        process = start(train, settings, PIPELINE, NIGHT)
        wait_for(partial(has_committed_twice_or_ended, place, process))
        if (lost := lose(process)) > 3:
            break
    assert lost > 3
    assert len(committed(place)) >= 2
    newest = committed(place)[-1]
    shutil.rmtree(settings.home_path)

    with warm_agents("forecache.models.training.process"):
        resumed = train(settings, PIPELINE, NIGHT)
    killed, [first, went_on] = outcome(settings)
    assert (first["step"], resumed.details["cost"]["attempts"]) == (0, 2)
    assert 0 < resumed.details["cost"]["wasted_s"] < resumed.details["cost"]["device_s"]
    assert went_on["step"] == int(newest.split("-")[1]) > 0
    assert len(committed(place)) == 2  # retention holds in the bucket, too

    alone = machine(tmp_path / "alone", options, lake)
    with warm_agents("forecache.models.training.process"):
        whole = train(alone, PIPELINE, NIGHT)
    undisturbed, [began] = outcome(alone)
    assert began["step"] == 0
    assert resumed.details["weights_digest"] == whole.details["weights_digest"]
    assert killed["sample_digests"] == undisturbed["sample_digests"]
    losses = [[(row["train_loss"], row["validation_loss"]) for row in run["history"]] for run in (killed, undisturbed)]
    assert losses[0] == losses[1]
