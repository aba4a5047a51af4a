"""A node of a run on several is lost: the others go on from the last checkpoint, without it or with a replacement."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from free_ports import free_port
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from training_sample import write_training_set
from warm_agents import WarmAgent, warm_agents

from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.models.training import launch
from forecache.models.training.launch import train
from forecache.models.training.spec import METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch.launch import command, worker_environment
from forecache.plugins.torch.worker.reader import BatchReader, EpochOrder, TableSplit

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TRAINING = Training(epochs=4, batch_size=64, patience=1000)
PIPELINE = replace(returns, training=TRAINING)


def lend(settings: Settings) -> WarmAgent:
    """A further node with one worker, in a process group of its own."""
    variables = {
        "FORECACHE_TRAINING_NODES": settings.training_nodes,
        "FORECACHE_TRAINING_RENDEZVOUS": settings.training_rendezvous,
        "FORECACHE_TRAINING_WORKERS": "1",
    }
    arguments = [sys.executable, "-m", "forecache.plugins.torch.join", "returns"]
    return WarmAgent(arguments, env={**worker_environment(settings), **variables}, start_new_session=True)


def lose(node: WarmAgent) -> None:
    """SIGKILL of everything on the node."""
    os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_second_node_is_lost_goes_on_without_it_or_with_another_and_sees_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    monkeypatch.setattr(launch, "TrainingSpec", partial(TrainingSpec, export=False))
    if not replaced:  # nobody comes, for whom torchrun would wait half a minute
        monkeypatch.setattr(
            "forecache.plugins.torch.launch.command", lambda *given: _waiting_for_nobody(command(*given))
        )
    for number in range(5):
        one = load_settings(home=tmp_path / f"home-{number}", project="sample_project", training_workers=1)
        write_training_set(one, returns, rows_per_date=2_000)
        # One that is replaced is waited for, however long this machine takes to start the other.
        nodes = {"training_nodes": "2" if replaced else "1:2", "training_rendezvous": f"127.0.0.1:{free_port()}"}
        several = one.model_copy(update=nodes)
        result, lost_at = train_and_lose_a_node(several, replaced=replaced)
        *_, began, went_on = [{"workers": 0}, *events_of(several.training_path, "start")]
        if went_on["time"] > lost_at:
            break  # else this process had to wait for longer than the training took
    workers = 2 if replaced else 1
    assert (began["workers"], went_on["workers"], result.details["workers"]) == (2, workers, workers)
    assert 0 < went_on["step"] <= went_on["reached_step"]

    assert samples_of(several.training_path) == all_samples(one)


def train_and_lose_a_node(several: Settings, *, replaced: bool) -> tuple[StageResult, float]:
    """Train with a second node that is lost once both are under way; the result, and when it was lost."""
    nodes, lost_at = [lend(several)], list[float]()

    def lose_it() -> None:
        while not is_under_way():
            time.sleep(0.02)
        lost_at.append(time.time())
        if nodes[0].poll() is None:
            lose(nodes[0])
            if replaced:
                nodes.append(lend(several))

    def is_under_way() -> bool:
        """Tell if both have ended an epoch together; if the second comes late, the first begins alone."""
        both = [start["time"] for start in events_of(several.training_path, "start") if start["workers"] == 2]
        return any(epoch["time"] > min(both) for epoch in events_of(several.training_path, "epoch")) if both else False

    saboteur = threading.Thread(target=lose_it, daemon=True)
    saboteur.start()
    try:
        with warm_agents("forecache.models.training.process"):
            result = train(several, PIPELINE, NIGHT)
        saboteur.join()
        if events_of(several.training_path, "start")[-1]["time"] > lost_at[0]:
            assert nodes[0].returncode == -signal.SIGKILL
            assert [node.wait() for node in nodes[1:]] == [0] * replaced
    finally:
        for node in nodes:
            if node.poll() is None:
                lose(node)
    return result, lost_at[0]


def _waiting_for_nobody(arguments: list[str]) -> list[str]:
    return [f"{each},last_call_timeout=20" if each.startswith("--rdzv-conf=") else each for each in arguments]


def events_of(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [line for path in folder.rglob(METRICS_FILE) for line in path.read_text().splitlines(keepends=True)]
    whole = [line for line in lines if line.endswith("\n")]  # the last one may be half there
    return [event for event in map(json.loads, whole) if event["event"] == name]


def samples_of(folder: Path) -> Any:
    """Digests of what was read, in its order, by the only run in the folder."""
    [path] = folder.rglob(RESULT_FILE)
    return json.loads(path.read_text())["sample_digests"]


def all_samples(settings: Settings) -> dict[str, str]:
    """The same, of every epoch read from its begin to its end in one go."""
    table = DeltaTable(settings.table_uri(returns.training_table))
    split = TableSplit(table, "train", features=returns.feature_names, label=returns.label.name)
    spec, training = TrainingSpec("", "", "", 0, "", TRAINING), TRAINING
    order = EpochOrder(
        split, seed=training.seed, batch_rows=training.batch_size, lanes=spec.lanes, shuffle_rows=spec.shuffle_rows
    )
    reader = BatchReader(order, rank=0, world_size=1)
    for epoch in range(training.epochs):
        for _ in reader.epoch(epoch):
            pass
    reader.close()
    return {str(lane): digest for lane, digest in reader.digests.items()}
