"""Training of networks under torchrun: its workers and their GPUs, its command line and its environment."""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from forecache.base.errors import SettingsError
from forecache.base.settings import Settings
from forecache.declare import Trainable, Training
from forecache.kit.lease import Lease
from forecache.models.training.process import OnEvent, TrainingPlan, lock_run, process_environment, run_process
from forecache.models.training.spec import LANES, SPEC_FILE, TrainingSpec


def plan_training(settings: Settings, pipeline: Trainable) -> TrainingPlan:
    """Plan the training of a pipeline's network on this machine."""
    most_nodes = int(settings.training_nodes.rpartition(":")[2])
    return TrainingPlan(
        training=resolve_precision(settings, pipeline.training),
        # A power of two and at least one per worker, so that most worker counts divide it evenly.
        lanes=max(LANES, 1 << (most_nodes * settings.training_workers - 1).bit_length()),
        workers=lambda: f"with {num_workers(settings)} workers",
        command=lambda spec: command(settings, spec),
        environment=lambda: worker_environment(settings),
    )


def run_torchrun(
    settings: Settings,
    spec: TrainingSpec,
    *,
    on_event: OnEvent,
    threads: int | None = None,
    gpu: int | None = None,
    lease: Lease | None = None,
) -> dict[str, Any]:
    """Lock the specification's run, execute it and return its `result.json`; `lease` and errors as of `lock_run` and
    `run_process`."""

    def report(message: str) -> None:
        on_event({"event": "warning", "message": message})

    environment = worker_environment(settings, threads=threads, gpu=gpu)
    with lock_run(settings, spec, report=report, lease=lease) as run_lock:
        return run_process(spec, command(settings, spec), environment, run_lock, on_event=on_event)


def command(settings: Settings, spec: TrainingSpec, *, host: bool = True) -> list[str]:
    """The torchrun command line, of which exactly one of several nodes hosts the rendezvous; SettingsError without
    one."""
    several = settings.training_nodes != "1"
    if several and not settings.training_rendezvous:
        raise SettingsError(
            f"FORECACHE_TRAINING_NODES is {settings.training_nodes!r}, and FORECACHE_TRAINING_RENDEZVOUS is not set.",
            remedy="Set it to the same value on all nodes, such as the first node's host:29400.",
        )
    return [
        *(sys.executable, "-m", "forecache.plugins.torch.agent"),
        f"--nnodes={settings.training_nodes}",
        f"--nproc-per-node={num_workers(settings)}",
        f"--max-restarts={settings.training_max_restarts}",
        "--rdzv-backend=c10d",
        f"--log-dir={spec.folder / 'torchelastic'}",  # by default every run leaves a folder in /tmp
        f"--rdzv-endpoint={settings.training_rendezvous if several else 'localhost:0'}",
        f"--rdzv-id={spec.pipeline}",
        *((f"--rdzv-conf=is_host={int(host)}",) if several else ("--local-addr=localhost",)),
        # torchrun ranks nodes by their addresses, of which it uses that of rank 0 alone. Rank 0 writes the result, so
        # it has to be a worker of the host: no other address may come before the host's.
        *((f"--local-addr=~{socket.getfqdn()}",) if several and not host else ()),
        str(spec.folder / SPEC_FILE),
    ]


def worker_environment(settings: Settings, *, threads: int | None = None, gpu: int | None = None) -> dict[str, str]:
    """The workers' environment, with variables for safe restarts and equal results.

    Threads per worker, if OMP_NUM_THREADS is not set, are the cores divided by the workers; `gpu` is the only one to
    use.
    """
    own = {
        # Without this a restart after SIGKILL hangs in init_process_group (pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if settings.training_nodes == "1":
        own["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if gpu is not None:
        own |= gpu_environment(gpu, os.environ)
    threads = threads or max(1, (os.cpu_count() or 1) // num_workers(settings))
    return process_environment(settings, threads=threads, own=own)


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
    """The variables that restrict a process to one GPU, by its index among those that are visible, as torch counts
    them."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in shown.split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": names[number] if names else str(number)}
