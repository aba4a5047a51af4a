"""Workers and trials by the GPUs that there are, and the type that "auto" stands for."""

from dataclasses import replace

import pytest

from forecache.base.settings import load_settings
from forecache.declare import Training
from forecache.plugins.torch.launch import gpu_environment, num_workers, resolve_precision, worker_environment
from forecache.plugins.tune.search import trial_slots

TRAINING = Training()


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "expected"),
    [("auto", 2, 1, 1), ("auto", 2, 8, 2), ("auto", 2, 0, 2), ("cpu", 2, 1, 2), ("cuda", 2, 1, 2)],
)
def test_the_default_settings_start_no_more_workers_than_there_are_gpus(
    device: str, workers: int, gpus: int, expected: int
) -> None:
    settings = load_settings(device=device, training_workers=workers)
    assert num_workers(settings, gpus=lambda: gpus) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "bfloat16", "expected"),
    [
        ("auto", 1, True, "bfloat16"),
        ("auto", 1, False, "float32"),
        ("auto", 0, True, "float32"),
        ("cpu", 1, True, "float32"),
    ],
)
def test_auto_precision_is_settled_before_a_run_has_a_folder(
    device: str, gpus: int, bfloat16: bool, expected: str
) -> None:
    settings = load_settings(device=device)
    found = resolve_precision(settings, TRAINING, gpus=lambda: gpus, bfloat16=lambda: bfloat16)
    assert found == replace(TRAINING, precision=expected)
    declared = replace(TRAINING, precision="float16")
    assert resolve_precision(settings, declared, gpus=lambda: gpus, bfloat16=lambda: bfloat16) == declared


def test_a_run_that_began_in_bfloat16_is_another_one_than_in_float32() -> None:
    from sample_project.pipelines.visits import returns

    from forecache.models.training.launch import training_inputs

    assert training_inputs(returns, 2, precision="bfloat16") != training_inputs(returns, 2, precision="float32")
    assert training_inputs(returns, 2, precision="float32") == training_inputs(returns, 2)


def test_each_trial_has_a_gpu_of_its_own_or_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trial_slots(load_settings(device="auto"), gpus=lambda: 3) == [0, 1, 2]
    assert set(trial_slots(load_settings(device="cpu"), gpus=lambda: 3)) == {None}
    assert set(trial_slots(load_settings(device="auto"), gpus=lambda: 0)) == {None}
    assert gpu_environment(1, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert gpu_environment(1, {"CUDA_VISIBLE_DEVICES": "4, GPU-abc,6"}) == {"CUDA_VISIBLE_DEVICES": "GPU-abc"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert worker_environment(load_settings(), gpu=1)["CUDA_VISIBLE_DEVICES"] == "7"
    assert worker_environment(load_settings())["CUDA_VISIBLE_DEVICES"] == "5,7"
