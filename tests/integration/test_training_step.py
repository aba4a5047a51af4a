"""Optimizer steps on real ranks: parts, workers and shards change nothing, and what was saved goes on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from ranks import run_ranks
from step_jobs import take_all, take_steps

from forecache.base.errors import SettingsError
from forecache.declare import Training
from forecache.plugins.torch.worker.group import StopPoll, WorkerGroup
from forecache.plugins.torch.worker.parallel import _choose_kind

TRAINING = Training(learning_rate=0.05, max_gradient_norm=0.1, schedule="cosine", warmup_share=0.3)
LOWER = ("bfloat16", "float16")
GIB = 1 << 30

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def one(folder: Path) -> Found:
    """What one rank finds over whole batches; "...: rest" goes on from a checkpoint after three steps."""
    runs: dict[str, dict[str, Any]] = {"whole": {"training": TRAINING}, "few": {"training": TRAINING, "rows": 3}}
    for precision in LOWER:
        runs[precision] = {"training": replace(TRAINING, precision=precision)}
    for name in ("whole", *LOWER):
        runs[f"{name}: half"] = {**runs[name], "last": 3, "save": folder / name}
        runs[f"{name}: rest"] = {**runs[name], "first": 3, "load": folder / name}
    return run_ranks(take_all, 1, folder / "one", runs=runs)[0]


@pytest.fixture(scope="module")
def two(one: Found, folder: Path) -> list[Found]:
    """What each of two ranks finds in parts."""
    parts = replace(TRAINING, accumulation=4)
    runs: dict[str, dict[str, Any]] = {
        "ddp": {"training": parts},
        "fsdp": {"training": parts, "kind": "fsdp"},
        "few": {"training": replace(TRAINING, accumulation=5), "kind": "fsdp", "rows": 3},
        "shards after one": {"training": TRAINING, "kind": "fsdp", "first": 3, "load": folder / "whole"},
        "half": {"training": TRAINING, "kind": "fsdp", "last": 3, "save": folder / "shards"},
        "shards after shards": {"training": TRAINING, "kind": "fsdp", "first": 3, "load": folder / "shards"},
        "copies after shards": {"training": TRAINING, "first": 3, "load": folder / "shards"},
        "overflow": {
            "training": replace(TRAINING, precision="float16", max_gradient_norm=None),
            "kind": "fsdp",
            "last": 2,
            "overflow_on": 1,
        },
    }
    return run_ranks(take_all, 2, folder / "two", runs=runs)


def assert_close(actual: dict[str, Any], expected: dict[str, Any], *, first: int = 0) -> None:
    assert actual["norms"] == pytest.approx(expected["norms"][first:], rel=1e-4)
    assert actual["losses"] == pytest.approx(expected["losses"][first:], rel=1e-4)
    assert actual["rates"] == expected["rates"][first:]
    weights, wanted = actual["weights"], expected["weights"]
    assert list(weights) == list(wanted)
    for name, tensor in weights.items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-4, atol=1e-5), name


def test_clipping_holds_and_the_rate_follows_the_schedule(one: Found) -> None:
    whole = one["whole"]
    assert max(whole["norms"]) > 0.1  # before clipping: it had something to do
    assert whole["rates"][:2] == pytest.approx([0.025, 0.05])
    assert whole["losses"][-1] < whole["losses"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_in_parts_end_with_the_weights_of_one_over_whole_batches(
    one: Found, two: list[Found], kind: str
) -> None:
    assert_close(two[0][kind], one["whole"])
    assert two[1][kind]["weights"] == {}


@pytest.mark.slow
def test_parts_are_exchanged_once_a_step(two: list[Found]) -> None:
    assert two[0]["ddp"]["exchanges"] == [6]


@pytest.mark.slow
def test_each_rank_holds_its_shard_of_every_layer(one: Found, two: list[Found]) -> None:
    shards = [found["fsdp"]["local"] for found in two]
    assert [shard["0.weight"] for shard in shards] == [(9, 5), (8, 5)]
    assert all(
        shard[name] != shape for shard in shards for name, shape in one["whole"]["local"].items() if shape[0] > 1
    )


@pytest.mark.slow
def test_more_parts_than_rows_and_ranks_without_rows_change_nothing(one: Found, two: list[Found]) -> None:
    assert_close(two[0]["few"], one["few"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shards after one", "shards after shards", "copies after shards"])
def test_shards_and_wholes_go_on_from_each_others_state(one: Found, two: list[Found], name: str) -> None:
    assert_close(two[0][name], one["whole"], first=3)


@pytest.mark.parametrize("name", ["whole", *LOWER])
def test_resuming_is_exact_in_every_precision(one: Found, name: str) -> None:
    rest, whole = one[f"{name}: rest"], one[name]
    assert all(torch.equal(tensor, whole["weights"][key]) for key, tensor in rest["weights"].items())
    assert rest["scaler"] == whole["scaler"]
    assert bool(whole["scaler"]) == (name == "float16")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
def test_a_run_of_several_ranks_and_buckets_goes_on_to_the_bit(ranks: int, tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "whole": {"training": TRAINING, "deep": True},
        "half": {"training": TRAINING, "deep": True, "last": 3, "save": tmp_path / "half"},
        "rest": {"training": TRAINING, "deep": True, "first": 3, "load": tmp_path / "half"},
    }
    found = run_ranks(take_all, ranks, tmp_path / "ranks", runs=runs)[0]
    assert found["whole"]["exchanges"][0] > 6
    for name, tensor in found["whole"]["weights"].items():
        assert torch.equal(found["rest"]["weights"][name], tensor), name


@pytest.mark.parametrize("name", LOWER)
def test_lower_precision_trains_close_to_float32_which_the_weights_keep(one: Found, name: str) -> None:
    assert one[name]["losses"] != one["whole"]["losses"]  # it did compute in another type
    assert one[name]["losses"] == pytest.approx(one["whole"]["losses"], rel=0.02)
    assert {tensor.dtype for tensor in one[name]["weights"].values()} == {torch.float32}


@pytest.mark.slow
def test_a_float16_gradient_that_overflows_on_one_rank_is_passed_over_by_all_shards(two: list[Found]) -> None:
    first, second = (found["overflow"] for found in two)
    assert first["scaler"] == second["scaler"]
    assert first["scaler"]["scale"] < 2.0**16  # halved
    assert all(torch.isfinite(tensor).all() for tensor in first["weights"].values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_has_the_losses_of_one_that_is_not(one: Found, tmp_path: Path) -> None:
    [compiled] = run_ranks(take_steps, 1, tmp_path, training=replace(TRAINING, compile=True), last=2)
    assert compiled["graphs"] >= 1
    assert compiled["losses"] == pytest.approx(one["whole"]["losses"][:2], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_in_bfloat16_by_itself_and_in_float32_like_the_cpu(
    one: Found, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, exact = tmp_path_factory.mktemp("gpu"), replace(TRAINING, precision="float32")
    [auto] = run_ranks(take_steps, 1, folder, device="cuda", training=TRAINING)
    assert auto["precision"] == "bfloat16"
    assert auto["losses"] == pytest.approx(one["whole"]["losses"], rel=0.02)
    for kind in ("ddp", "fsdp"):
        [found] = run_ranks(take_steps, 1, folder, device="cuda", training=exact, kind=kind)
        assert_close(found, one["whole"])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_shards_on_two_gpus_over_nccl_equal_one_rank_on_the_cpu(
    one: Found, tmp_path_factory: pytest.TempPathFactory
) -> None:
    training = replace(TRAINING, precision="float32", accumulation=4)
    pair = run_ranks(take_steps, 2, tmp_path_factory.mktemp("nccl"), device="cuda", training=training, kind="fsdp")
    assert_close(pair[0], one["whole"])


def test_shards_are_chosen_only_where_the_state_does_not_fit_and_there_are_ranks_to_share_it() -> None:
    assert _choose_kind(50 * GIB, 80 * GIB, 8) == "ddp"
    assert _choose_kind(60 * GIB, 80 * GIB, 8) == "fsdp"
    assert _choose_kind(60 * GIB, 80 * GIB, 1) == "ddp"


@pytest.mark.parametrize(
    ("gpus", "device", "sentence"),
    [
        (0, "cuda", "FORECACHE_DEVICE is 'cuda', and this machine has no GPU"),
        (1, "cuda", r"Worker 2 of this node has no GPU: there are 1\. Set FORECACHE_TRAINING_WORKERS"),
        (1, "auto", "Worker 2 of this node has no GPU"),
    ],
)
def test_a_worker_without_a_gpu_of_its_own_is_refused_by_the_name_of_the_setting(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, sentence: str
) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(SettingsError, match=sentence):
        WorkerGroup(device)


class Ranks:
    """A group whose slowest rank needs `seconds` a step; counts how often it is asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked_to_stop, self.polls = seconds, False, 0

    def maximum(self, asked: float, seconds: float) -> list[float]:
        self.polls += 1
        return [asked, max(seconds, self.seconds)]


def test_the_stop_is_looked_for_rarely_in_fast_steps_and_after_each_slow_one() -> None:
    ranks = Ranks(seconds=1e-4)
    poll = StopPoll(cast(WorkerGroup, ranks))
    assert not any(poll.should_stop() for _ in range(161))
    assert ranks.polls == 11  # the first, then one in sixteen
    ranks.seconds = 2.0
    assert not any(poll.should_stop() for _ in range(20))
    assert ranks.polls == 16  # at the end of the sixteen, then each
    ranks.asked_to_stop = True
    assert poll.should_stop()
