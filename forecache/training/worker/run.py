"""One worker's run from specification to exported model, in the order things happen."""

import hashlib
import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from deltalake import DeltaTable

from forecache.pipeline import Pipeline, load_pipeline
from forecache.settings import load_settings
from forecache.training.spec import CHECKPOINTS, HEARTBEAT_FILE, RESULT_FILE, TrainingSpec
from forecache.training.worker.checkpoint import Checkpoints
from forecache.training.worker.data import EpochOrder, Split
from forecache.training.worker.events import Events, silent
from forecache.training.worker.export import export
from forecache.training.worker.group import Group
from forecache.training.worker.heartbeat import Heartbeat
from forecache.training.worker.loop import Interrupted, Loop
from forecache.training.worker.model import ExportedModel, Objective, Prepare, Statistics, fit_statistics, log_mask
from forecache.training.worker.places import open_place

_EVALUATION_ROWS = 1 << 15
_PARITY_ROWS = 4096


def run_worker(spec: TrainingSpec, *, launched_at: float) -> None:
    """Train, or go on training, and export on rank 0; returns early where a stop was asked for.

    Args:
        launched_at: When this process started, in seconds since 1970, for the record of what the run cost.
    """
    settings = load_settings()
    pipeline = spec.applied_to(load_pipeline(settings, spec.pipeline))
    torch.use_deterministic_algorithms(True)
    group = Group(spec.device)
    try:
        table = DeltaTable(spec.table_uri, version=spec.table_version, storage_options=settings.storage_options)
        _train(spec, pipeline, group, table, launched_at=launched_at)
    except Interrupted:
        if group.rank == 0:
            Events(spec)("interrupted")
    finally:
        group.close()


def _train(spec: TrainingSpec, pipeline: Pipeline, group: Group, table: DeltaTable, *, launched_at: float) -> None:
    names, label = pipeline.features.names, pipeline.label.name
    train = Split(table, "train", features=names, label=label, cache_bytes=spec.cache_bytes)
    validation = Split(table, "validation", features=names, label=label, cache_bytes=spec.cache_bytes)
    place = open_place(spec.checkpoints or str(spec.folder / CHECKPOINTS), load_settings().storage_options)
    checkpoints = Checkpoints(place, group, inputs=spec.inputs, keep=spec.keep_checkpoints)
    state, refused = checkpoints.latest()
    statistics = group.broadcast(fit_statistics(train, log_mask(pipeline)) if group.rank == 0 else None)
    heartbeat = Heartbeat(spec.folder / HEARTBEAT_FILE) if group.rank == 0 else None
    events = Events(spec) if group.rank == 0 else silent
    for sentence in refused:
        events("warning", message=sentence)

    torch.manual_seed(pipeline.training.seed)
    network = pipeline.network.build(len(names)).to(group.device)
    prepare = Prepare(log_mask(pipeline), statistics).to(group.device)
    loop = Loop(
        group,
        pipeline.training,
        network=network,
        prepare=prepare,
        objective=Objective(pipeline),
        train=EpochOrder(
            train,
            seed=pipeline.training.seed,
            batch_rows=pipeline.training.batch_size,
            lanes=spec.lanes,
            shuffle_rows=spec.shuffle_rows,
        ),
        validation=EpochOrder(validation, seed=0, batch_rows=_EVALUATION_ROWS, lanes=spec.lanes, shuffle_rows=0),
        checkpoints=checkpoints,
        checkpoint_steps=spec.checkpoint_steps,
        report=events,
        beat=heartbeat.beat if heartbeat else _no_beat,
    )
    if state is not None:
        loop.load(state)
    events(
        "start",
        step=loop.global_step,
        steps=loop.train.num_steps,
        rows=train.rows,
        launched_at=launched_at,
        reached_step=heartbeat.before[0] if heartbeat else 0,
        alive_at=heartbeat.before[1] if heartbeat else 0.0,
        **_environment(group),
    )
    loop.fit()
    usage = loop.usage.measured(group)
    if group.rank == 0:
        events("export")
        _finish(spec, pipeline, loop, statistics, usage)
        events("done")


def _finish(spec: TrainingSpec, pipeline: Pipeline, loop: Loop, statistics: Statistics, usage: dict[str, Any]) -> None:
    model = ExportedModel(pipeline, loop.prepare.cpu(), loop.network.cpu())
    split = loop.validation.split
    sample = torch.from_numpy(next(split.read(split.chunks[0])))[:_PARITY_ROWS, :-1].contiguous()
    if len(sample) == 1:
        sample = sample.repeat(2, 1)
    parity = export(model, pipeline, spec.folder, sample) if spec.export else {}
    names = pipeline.features.names
    result = {
        "epochs": len(loop.history),
        "best_epoch": loop.best_epoch,
        "steps": len(loop.history) * loop.train.num_steps,
        "validation_loss": loop.best_loss,
        "history": loop.history,
        "rows": {"train": loop.train.split.rows, "validation": split.rows},
        "order": loop.train.fingerprint,
        "sample_digests": {str(lane): digest for lane, digest in loop.digests.items()},
        "weights_digest": _digest(loop.network),
        "parameters": sum(parameter.numel() for parameter in loop.network.parameters()),
        "statistics": {
            "mean": dict(zip(names, statistics.mean.tolist(), strict=True)),
            "std": dict(zip(names, statistics.std.tolist(), strict=True)),
            "null_share": dict(zip(names, statistics.null_share.tolist(), strict=True)),
        },
        "usage": usage,
        **_environment(loop.group),
        **parity,
    }
    unfinished = spec.folder / f".{RESULT_FILE}"
    unfinished.write_text(json.dumps(result, indent=2))
    unfinished.rename(spec.folder / RESULT_FILE)


def _digest(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _environment(group: Group) -> dict[str, Any]:
    name = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else "cpu"
    return {
        "workers": group.world_size,
        "device": group.device.type,
        "device_name": name,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
    }


def _no_beat(step: int) -> None:
    """The heartbeat of the other ranks: none."""


def is_lost_peer(error: Exception) -> bool:
    """Whether the error only says that another worker is gone, which a restart mends."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "Broken pipe", "TCPStore")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
