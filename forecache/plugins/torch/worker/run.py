"""One worker's run, from specification to exported model."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deltalake import DeltaTable
from torch import nn

from forecache.base.files import write_durably
from forecache.base.settings import load_settings
from forecache.declare import Trainable, Training
from forecache.declare.loading import load_trainable
from forecache.lake.split_rows import training_classes
from forecache.models.inference.encoding import MatrixEncoding, encoding_of
from forecache.models.training.spec import (
    CHECKPOINTS,
    HEARTBEAT_FILE,
    REFIT,
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
from forecache.plugins.torch.worker.parallel import State, WorkerGroup
from forecache.plugins.torch.worker.reader import EpochOrder, TableSplit
from forecache.plugins.torch.worker.session import RunInterruption, TrainingSession
from forecache.plugins.torch.worker.user_fit import UserFitLoop

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


@dataclass(frozen=True)
class _WorkerRun:
    """The parts that the trainings of a run share: one, or two if the network is trained again on all splits.

    Attributes:
        place: Folder or URI of the checkpoints.
    """

    spec: TrainingSpec
    pipeline: Trainable
    group: WorkerGroup
    table: DeltaTable
    classes: tuple[str, ...]
    encoding: MatrixEncoding
    place: str
    report: Callable[..., None]
    beat: Callable[[int], None]

    def read(self, *splits: str) -> TableSplit:
        return TableSplit(
            self.table,
            *splits,
            features=self.pipeline.feature_names,
            label=self.pipeline.trained_label.name,
            classes=self.classes,
            weight=self.pipeline.trained_label.weight,
            encoding=self.encoding,
            cache_bytes=self.spec.cache_bytes,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return output_widths(self.pipeline, self.classes)

    def build(self) -> nn.Module:
        """The declared network, on the CPU."""
        return network_builder(self.pipeline, self.classes, self.encoding)(self.encoding.width)

    def fit_statistics(self, rows: TableSplit) -> Statistics:
        fitted = self.group.run_on_rank_0(lambda: fit_statistics(rows, log_mask(self.pipeline)))
        return without_scaling(fitted, [column for column, _ in self.encoding.categories.values()])

    def open_session(
        self, train: TableSplit, validation: TableSplit, statistics: Statistics, checkpoints: Checkpoints, *, after: int
    ) -> TrainingSession:
        """A training whose first step is counted as that `after` others."""
        training, group = self.pipeline.training, self.group

        def report(event: str, **values: Any) -> None:
            self.report(event, **(values | {"step": after + values["step"]} if "step" in values else values))

        return TrainingSession(
            group,
            training,
            prepare=Prepare(log_mask(self.pipeline), statistics).to(group.device),
            objective=Objective(self.pipeline, self.widths[0]).to(group.device),
            train=EpochOrder(
                train,
                seed=training.seed,
                batch_rows=training.batch_size,
                shuffle_rows=self.spec.shuffle_rows,
                lanes=self.spec.lanes,
            ),
            validation=EpochOrder(
                validation, seed=0, batch_rows=_evaluation_rows(training), shuffle_rows=0, lanes=self.spec.lanes
            ),
            checkpoints=checkpoints,
            checkpoint_steps=self.spec.checkpoint_steps,
            report=report,
            beat=lambda step: self.beat(after + step),
        )

    def open_checkpoints(self, part: str = "") -> Checkpoints:
        folder = open_run_files(load_settings(), f"{self.place}/{part}" if part else self.place)
        return Checkpoints(folder, self.group, inputs=self.spec.inputs, keep=self.spec.keep_checkpoints)

    def resume(self, loop: TrainingLoop | UserFitLoop) -> None:
        """Continue a training at its newest checkpoint, if there is one."""
        state, refused = loop.session.checkpoints.load_latest(loop.layout())
        for sentence in refused:
            self.report("warning", message=sentence)
        if state is not None:
            loop.load(state)

    def make_refit(self, first: TrainingSession, num_epochs: int) -> TrainingLoop:
        """The training on the rows of all splits that follows a first one."""
        rows = self.read("train", "validation", "test")
        session = self.open_session(
            rows,
            first.validation.split,
            self.fit_statistics(rows),
            self.open_checkpoints(REFIT),
            after=first.global_step,
        )
        session.usage = first.usage
        torch.manual_seed(session.training.seed)
        loop = TrainingLoop(session, self.build(), num_epochs=num_epochs)
        self.resume(loop)
        return loop

    def fit(self, loop: TrainingLoop | UserFitLoop) -> State:
        try:
            weights = loop.fit()
            loop.session.checkpoints.wait()
        finally:
            loop.session.reader.close()
        return weights

    def export(self, session: TrainingSession, weights: State, folder: Path) -> tuple[nn.Module, dict[str, float]]:
        """Export a trained network into a folder, if the specification says so; returns it, and the parity."""
        network = self.build()
        network.load_state_dict(weights)
        model = ExportedModel(self.pipeline, session.prepare.cpu(), network, self.widths)
        split = session.validation.split
        sample = torch.from_numpy(next(split.read(split.chunks[0])))[:_PARITY_ROWS, : split.num_features].contiguous()
        if len(sample) == 1:
            sample = sample.repeat(2, 1)
        folder.mkdir(exist_ok=True)
        return network, export(model, self.pipeline, folder, sample) if self.spec.export else {}


def _train(
    spec: TrainingSpec, pipeline: Trainable, group: WorkerGroup, table: DeltaTable, *, launched_at: float
) -> None:
    heartbeat = Heartbeat(spec.folder / HEARTBEAT_FILE) if group.rank == 0 else None
    events = Events(spec) if group.rank == 0 else report_nothing
    run = _WorkerRun(
        spec,
        pipeline,
        group,
        table,
        classes=training_classes(load_settings(), pipeline, version=spec.table_version),
        encoding=encoding_of(pipeline.feature_columns, spec.vocabularies),
        place=spec.checkpoints or str(spec.folder / CHECKPOINTS),
        report=events,
        beat=heartbeat.beat if heartbeat else _no_beat,
    )
    train, validation = run.read("train"), run.read("validation")
    statistics = run.fit_statistics(train)
    session = run.open_session(train, validation, statistics, run.open_checkpoints(), after=0)
    loop = _build_loop(run, session)
    run.resume(loop)
    is_refitted = pipeline.training.refit and spec.export
    begin = partial(
        events,
        "start",
        steps=session.train.num_steps,
        rows=train.rows,
        launched_at=launched_at,
        reached_step=heartbeat.before[0] if heartbeat else 0,
        alive_at=heartbeat.before[1] if heartbeat else 0.0,
        **_environment(group),
    )
    is_first_done = is_refitted and loop.is_finished
    if not is_first_done:
        begin(step=session.global_step)
    weights = run.fit(loop)
    result, num_epochs = _describe(run, loop, statistics), loop.best_epoch + 1
    del loop  # which frees the memory of network and optimizer for the next
    again: TrainingLoop | None = None
    if is_refitted:
        again = run.make_refit(session, num_epochs)
        if is_first_done:
            begin(step=session.global_step + again.session.global_step)
        events("refit")
        last_weights = run.fit(again)
    usage = session.usage.summarize(group)
    if group.rank == 0:
        events("export")
        network, parity = run.export(session, weights, spec.folder)
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        result |= {"weights_digest": _digest(network), "parameters": num_parameters, "usage": usage, **parity}
        if again is not None:
            network, _ = run.export(again.session, last_weights, spec.folder / REFIT)
            result["refit"] = {"rows": again.session.train.split.rows, "rounds": again.session.epoch}
            result["weights_digest"] = _digest(network)
        write_durably(spec.folder / RESULT_FILE, json.dumps(result, indent=2))
        events("done")


def _build_loop(run: _WorkerRun, session: TrainingSession) -> TrainingLoop | UserFitLoop:
    model = run.pipeline.network
    build = network_builder(run.pipeline, run.classes, run.encoding)
    torch.manual_seed(session.training.seed)
    network = build(run.encoding.width)
    require_width(run.pipeline, network, run.encoding.width, sum(run.widths))
    if model.fit is not None:
        return UserFitLoop(session, model.fit, build=build, num_features=run.encoding.width)
    return TrainingLoop(session, network)


def _describe(run: _WorkerRun, loop: TrainingLoop | UserFitLoop, statistics: Statistics) -> dict[str, Any]:
    """Entries of the result about the training that the gate judges."""
    session, names = loop.session, run.encoding.columns
    return {
        "epochs": len(session.history),
        "best_epoch": loop.best_epoch,
        "steps": len(session.history) * session.train.num_steps,
        "validation_loss": loop.best_loss,
        "history": session.history,
        "rows": {"train": session.train.split.rows, "validation": session.validation.split.rows},
        "order": session.train.fingerprint,
        "sample_digests": {str(lane): digest for lane, digest in session.digests.items()},
        "statistics": {
            "mean": dict(zip(names, statistics.mean.tolist(), strict=True)),
            "std": dict(zip(names, statistics.std.tolist(), strict=True)),
            "null_share": dict(zip(names, statistics.null_share.tolist(), strict=True)),
        },
        **loop.result_entries(),
        **_environment(run.group),
    }


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
