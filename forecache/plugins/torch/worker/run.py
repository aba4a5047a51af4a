"""One worker's run, from specification to exported model."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from deltalake import DeltaTable
from torch import nn

from forecache.base.errors import InputError
from forecache.base.files import write_durably
from forecache.base.settings import load_settings
from forecache.declare import Trainable, Training
from forecache.declare.loading import load_trainable
from forecache.declare.models.model import FitRun, MakeState
from forecache.lake.split_rows import training_classes
from forecache.models.inference.encoding import MatrixEncoding, encoding_of
from forecache.models.training.spec import (
    CHECKPOINTS,
    HEARTBEAT_FILE,
    RESULT_FILE,
    Events,
    Heartbeat,
    TrainingSpec,
    open_run_files,
    report_nothing,
)
from forecache.plugins.torch.worker.checkpoints import Checkpoints
from forecache.plugins.torch.worker.loop import TrainingLoop
from forecache.plugins.torch.worker.network import (
    ExportedModel,
    Objective,
    Prepare,
    Statistics,
    export,
    fit_statistics,
    log_mask,
    network_builder,
    output_widths,
    require_width,
    without_scaling,
)
from forecache.plugins.torch.worker.parallel import State, WorkerGroup, gather_weights
from forecache.plugins.torch.worker.reader import EpochOrder, TableSplit
from forecache.plugins.torch.worker.session import RunInterruption, TrainingSession


class RankRun:
    """The `FitRun` that is passed to the user's function."""

    def __init__(self, session: TrainingSession, build: Callable[[int], nn.Module], num_features: int) -> None:
        self._session, self._build, self.num_features = session, build, num_features
        self.device, self.training = session.group.device, session.training
        self.rank, self.world_size = session.group.rank, session.group.world_size
        self.num_rows, self.num_steps = session.train.split.rows, session.train.num_steps
        self.restored: dict[str, Any] | None = None
        self._make_state: MakeState = dict

    @property
    def epoch(self) -> int:
        return self._session.epoch

    @property
    def history(self) -> list[dict[str, float]]:
        return list(self._session.history)

    def build(self) -> nn.Module:
        torch.manual_seed(self.training.seed)
        return self._build(self.num_features).to(self.device)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        session = self._session
        for batch in session.batches():
            here = batch.on(self.device)
            yield session.prepare(here.features), here.target

    @property
    def step_rows(self) -> int:
        return self._session.train.step_rows(self._session.step)

    def loss(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._session.objective(output, label)
        return loss

    def step_done(self, make_state: MakeState) -> None:
        self._session.step_done(lambda: {"own": make_state()})

    def end_epoch(self, network: nn.Module, make_state: MakeState, *, train_loss: float) -> float:
        session, self._make_state = self._session, make_state
        validation_loss = session.validation_loss(network, lambda: {"own": make_state()})
        record = session.record_epoch(train_loss, validation_loss)
        session.save(lambda: {"own": make_state()})
        session.report("epoch", **record, epochs=max(self.training.epochs, session.epoch))
        return validation_loss

    def sum(self, *values: float) -> list[float]:
        return self._session.group.sum(*values)


class UserFitLoop:
    """Trains with a declared function instead of the built-in training loop."""

    def __init__(
        self,
        session: TrainingSession,
        fit: Callable[[FitRun], nn.Module],
        *,
        build: Callable[[int], nn.Module],
        num_features: int,
    ) -> None:
        self.session, self._fit = session, fit
        self.run = RankRun(session, build, num_features)
        self.best_loss, self.best_epoch = float("inf"), -1

    def layout(self) -> None:
        """None: the function restores its state itself."""

    def load(self, state: dict[str, Any]) -> None:
        self.session.restore(state)
        self.run.restored = state["own"]

    def fit(self) -> State:
        """Call the function; returns the weights of the network it returned, whole on rank 0. InputError if it ended no
        epoch, Interrupted if asked to stop: a checkpoint has the position."""
        network = self._fit(self.run)
        losses = [record["validation_loss"] for record in self.session.history]
        if not losses:
            raise InputError(
                f"The training function {self._fit.__qualname__!r} returned without `run.end_epoch`.",
                remedy="Call it after each pass over `run.batches()`.",
            )
        self.best_epoch = losses.index(min(losses))
        self.best_loss = self.session.validation_loss(network, lambda: {"own": self.run._make_state()})
        return gather_weights(network)

    def result_entries(self) -> dict[str, Any]:
        return {"fit": f"{self._fit.__module__}.{self._fit.__qualname__}"}


_EVALUATION_ROWS, _EVALUATION_PARTS = 1 << 15, 16
_PARITY_ROWS = 4096


def run_worker(spec: TrainingSpec, *, launched_at: float) -> None:
    """Train, or resume training, and export on rank 0; returns early if the run is asked to stop. `launched_at` is when
    torchrun's agent started, in seconds since 1970, for the cost record."""
    settings = load_settings()
    pipeline = spec.applied_to(load_trainable(settings, spec.pipeline))
    torch.use_deterministic_algorithms(pipeline.training.deterministic)
    group = WorkerGroup(spec.device)
    try:
        table = DeltaTable(spec.table_uri, version=spec.table_version, storage_options=settings.storage_options)
        _train(spec, pipeline, group, table, launched_at=launched_at)
    except RunInterruption:
        if group.rank == 0:
            Events(spec)("interrupted")
    finally:
        group.close()
    group.end_if_signalled()


def _train(
    spec: TrainingSpec, pipeline: Trainable, group: WorkerGroup, table: DeltaTable, *, launched_at: float
) -> None:
    names, label = pipeline.feature_names, pipeline.trained_label.name
    classes = training_classes(load_settings(), pipeline, version=spec.table_version)
    encoding = encoding_of(pipeline.feature_columns, spec.vocabularies)
    reading: dict[str, Any] = {
        "features": names,
        "label": label,
        "classes": classes,
        "weight": pipeline.trained_label.weight,
        "encoding": encoding,
    }
    train = TableSplit(table, "train", **reading, cache_bytes=spec.cache_bytes)
    validation = TableSplit(table, "validation", **reading, cache_bytes=spec.cache_bytes)
    widths = output_widths(pipeline, classes)
    folder = open_run_files(load_settings(), spec.checkpoints or str(spec.folder / CHECKPOINTS))
    checkpoints = Checkpoints(folder, group, inputs=spec.inputs, keep=spec.keep_checkpoints)
    statistics = without_scaling(
        group.run_on_rank_0(lambda: fit_statistics(train, log_mask(pipeline))),
        [column for column, _ in encoding.categories.values()],
    )
    heartbeat = Heartbeat(spec.folder / HEARTBEAT_FILE) if group.rank == 0 else None
    events = Events(spec) if group.rank == 0 else report_nothing
    prepare = Prepare(log_mask(pipeline), statistics).to(group.device)
    session = TrainingSession(
        group,
        pipeline.training,
        prepare=prepare,
        objective=Objective(pipeline, widths[0]).to(group.device),
        train=EpochOrder(
            train,
            seed=pipeline.training.seed,
            batch_rows=pipeline.training.batch_size,
            lanes=spec.lanes,
            shuffle_rows=spec.shuffle_rows,
        ),
        validation=EpochOrder(
            validation, seed=0, batch_rows=_evaluation_rows(pipeline.training), lanes=spec.lanes, shuffle_rows=0
        ),
        checkpoints=checkpoints,
        checkpoint_steps=spec.checkpoint_steps,
        report=events,
        beat=heartbeat.beat if heartbeat else _no_beat,
    )
    build = network_builder(pipeline, classes, encoding)
    loop = _build_loop(pipeline, session, build, encoding.width, sum(widths))
    state, refused = checkpoints.load_latest(loop.layout())
    for sentence in refused:
        events("warning", message=sentence)
    if state is not None:
        loop.load(state)
    events(
        "start",
        step=session.global_step,
        steps=session.train.num_steps,
        rows=train.rows,
        launched_at=launched_at,
        reached_step=heartbeat.before[0] if heartbeat else 0,
        alive_at=heartbeat.before[1] if heartbeat else 0.0,
        **_environment(group),
    )
    try:
        weights = loop.fit()
        checkpoints.wait()
    finally:
        session.reader.close()
    usage = session.usage.summarize(group)
    if group.rank == 0:
        events("export")
        network = build(encoding.width)
        network.load_state_dict(weights)
        _finish(spec, pipeline, loop, network, statistics, usage, encoding)
        events("done")


def _build_loop(
    pipeline: Trainable,
    session: TrainingSession,
    build: Callable[[int], torch.nn.Module],
    num_features: int,
    width: int,
) -> TrainingLoop | UserFitLoop:
    model = pipeline.network
    torch.manual_seed(session.training.seed)
    network = build(num_features)
    require_width(pipeline, network, num_features, width)
    if model.fit is not None:
        return UserFitLoop(session, model.fit, build=build, num_features=num_features)
    return TrainingLoop(session, network)


def _finish(
    spec: TrainingSpec,
    pipeline: Trainable,
    loop: TrainingLoop | UserFitLoop,
    network: torch.nn.Module,
    statistics: Statistics,
    usage: dict[str, Any],
    encoding: MatrixEncoding,
) -> None:
    session = loop.session
    model = ExportedModel(
        pipeline, session.prepare.cpu(), network, output_widths(pipeline, session.train.split.classes)
    )
    split = session.validation.split
    sample = torch.from_numpy(next(split.read(split.chunks[0])))[:_PARITY_ROWS, : split.num_features].contiguous()
    if len(sample) == 1:
        sample = sample.repeat(2, 1)
    parity = export(model, pipeline, spec.folder, sample) if spec.export else {}
    names = encoding.columns
    result = {
        "epochs": len(session.history),
        "best_epoch": loop.best_epoch,
        "steps": len(session.history) * session.train.num_steps,
        "validation_loss": loop.best_loss,
        "history": session.history,
        "rows": {"train": session.train.split.rows, "validation": split.rows},
        "order": session.train.fingerprint,
        "sample_digests": {str(lane): digest for lane, digest in session.digests.items()},
        "weights_digest": _digest(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "statistics": {
            "mean": dict(zip(names, statistics.mean.tolist(), strict=True)),
            "std": dict(zip(names, statistics.std.tolist(), strict=True)),
            "null_share": dict(zip(names, statistics.null_share.tolist(), strict=True)),
        },
        "usage": usage,
        **loop.result_entries(),
        **_environment(session.group),
        **parity,
    }
    write_durably(spec.folder / RESULT_FILE, json.dumps(result, indent=2))


def _evaluation_rows(training: Training) -> int:
    """Rows of an evaluation batch: several parts of a training step, as no gradients are kept, up to a useful size."""
    return min(_EVALUATION_ROWS, _EVALUATION_PARTS * -(-training.batch_size // training.accumulation))


def _digest(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _environment(group: WorkerGroup) -> dict[str, Any]:
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
    """The heartbeat of ranks other than 0: does nothing."""


def is_lost_peer(error: Exception) -> bool:
    """True if the error only reports that another worker was lost, which a restart fixes."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "Broken pipe", "TCPStore")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
