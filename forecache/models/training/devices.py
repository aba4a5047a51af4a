"""The GPUs of this machine, and how workers and trials are assigned to them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from forecache.base.settings import Settings
from forecache.declare import Training


def num_gpus() -> int:
    """GPUs that torch can use here; torch is imported only on a machine that has a GPU's driver."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/kfd").exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def supports_bfloat16() -> bool:
    """True if this machine's GPUs support bfloat16 natively, not by emulation."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def num_workers(settings: Settings, *, gpus: Callable[[], int] = num_gpus) -> int:
    """Number of workers on this node; with device "auto" at most one per GPU, if the node has GPUs."""
    if settings.device != "auto":
        return settings.training_workers
    return min(settings.training_workers, gpus() or settings.training_workers)


def resolve_precision(
    settings: Settings,
    training: Training,
    *,
    gpus: Callable[[], int] = num_gpus,
    bfloat16: Callable[[], bool] = supports_bfloat16,
) -> Training:
    """Replace precision "auto" with the type that this machine uses, so that a run resumes in the type it began in."""
    if training.precision != "auto":
        return training
    gpu = settings.device != "cpu" and gpus() > 0
    return replace(training, precision="bfloat16" if gpu and bfloat16() else "float32")


def gpu_environment(number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that restrict a process to one GPU.

    Args:
        number: Index of the GPU among those that `environment` makes visible, as torch counts them.
    """
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in shown.split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": names[number] if names else str(number)}
