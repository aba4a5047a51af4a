"""Two torchrun agents that find each other by c10d rendezvous: `train` on one node, `join` on the other."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from registry_sample import NIGHT
from sample_project.pipelines.visits import returns
from training_sample import write_training_set

from forecache.errors import SettingsError, UnavailableError
from forecache.settings import load_settings
from forecache.training.join import join
from forecache.training.launch import train
from forecache.training.torchrun import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_second_node_lends_its_worker_to_the_run_and_ends_with_it(tmp_path: Path) -> None:
    rendezvous = f"127.0.0.1:{free_port()}"
    settings = load_settings(
        home=tmp_path / "home",
        project="sample_project",
        training_workers=1,
        training_nodes="2",
        training_rendezvous=rendezvous,
    )
    write_training_set(settings, returns, rows_per_date=200)
    variables = {"FORECACHE_TRAINING_NODES": "2", "FORECACHE_TRAINING_RENDEZVOUS": rendezvous}
    second = subprocess.Popen(
        [sys.executable, "-m", "forecache.training.join", "returns", "--wait-s", "120"],
        env={**environment(settings), **variables, "FORECACHE_TRAINING_WORKERS": "1"},
    )
    try:
        result = train(settings, returns, NIGHT)
        assert result.details["workers"] == 2
        assert second.wait(60) == 0
    finally:
        second.kill()


def test_joining_without_a_rendezvous_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_TRAINING_RENDEZVOUS"):
        join(load_settings(home=tmp_path), "returns")


def test_joining_where_no_run_appears_ends_with_a_sentence(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, training_nodes="2", training_rendezvous="127.0.0.1:1")
    with pytest.raises(UnavailableError, match="No training run of 'returns' appeared"):
        join(settings, "returns", wait_s=0.0)
