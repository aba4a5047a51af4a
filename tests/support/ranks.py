"""Several ranks of a process group on this machine: real processes, real gloo, what each returns."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from free_ports import free_port
from warm import processes

TIMEOUT_S = 300


def run_ranks(
    job: Callable[..., Any], world_size: int, folder: Path, *, device: str = "cpu", **arguments: Any
) -> list[Any]:
    """Call `job(group, **arguments)` in `world_size` processes and return their results by rank.

    Args:
        job: A function of an importable module; what it returns is written with `torch.save`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    ranks = [
        processes().Process(target=_rank, args=(job, rank, world_size, port, folder, device, arguments))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(TIMEOUT_S)
        assert [process.exitcode for process in ranks] == [0] * world_size
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(
    job: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    folder: Path,
    device: str,
    arguments: dict[str, Any],
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    from forecache.plugins.torch.worker.group import WorkerGroup

    group = WorkerGroup(device)
    try:
        torch.save(job(group, **arguments), folder / f"{rank}.pt")
    finally:
        group.close()
