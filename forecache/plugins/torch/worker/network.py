"""The declared network, its loss, and the module that is exported: preprocessing, network and the output's link."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from forecache.base.errors import CheckError, InputError
from forecache.declare import Trainable
from forecache.declare.models.model import CategoryColumn
from forecache.models.inference.encoding import MatrixEncoding
from forecache.models.training.spec import ONNX_FILE, TORCH_FILE
from forecache.plugins.torch.worker.split import TableSplit


class EmbeddedCategories(nn.Module):
    """float32 [n, num_features], codes in the columns of categories -> float32 [n, width]: numbers, then embeddings.

    Attributes:
        width: `num_features`, less the categories, plus `dimension` for each.
    """

    def __init__(self, num_features: int, categories: Mapping[str, CategoryColumn], *, dimension: int = 8) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(found.num_codes, dimension) for found in categories.values())
        places = [found.column for found in categories.values()]
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)
        numbers = [column for column in range(num_features) if column not in places]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self.width = len(numbers) + dimension * len(places)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        codes = features.index_select(1, self.places).long()
        embedded = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat([features.index_select(1, self.numbers), *embedded], dim=1)


_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each feature on the training split, after log1p if the feature declares it.

    Attributes:
        mean: float64 [num_features]; 0 for a feature that is always null.
        std: float64 [num_features]; 0 for a feature that never varies.
        null_share: float64 [num_features].
    """

    mean: torch.Tensor
    std: torch.Tensor
    null_share: torch.Tensor


def log_mask(pipeline: Trainable) -> torch.Tensor:
    """True for each column of the matrix with a declared log1p, bool [num_features]."""
    return torch.tensor([feature.log for feature in pipeline.feature_columns for _ in range(feature.size or 1)])


def without_scaling(statistics: Statistics, columns: Sequence[int]) -> Statistics:
    """The statistics with mean 0 and deviation 1 for columns that hold codes, so that these are not scaled."""
    mean, std = statistics.mean.clone(), statistics.std.clone()
    mean[list(columns)], std[list(columns)] = 0.0, 1.0
    return Statistics(mean, std, statistics.null_share)


def signed_log1p(values: torch.Tensor) -> torch.Tensor:
    """log1p, mirrored for negative values so that it is defined everywhere."""
    return torch.sign(values) * torch.log1p(values.abs())


def fit_statistics(split: TableSplit, mask: torch.Tensor) -> Statistics:
    """Compute them in one pass in the table's order, merging batches as Chan, Golub and LeVeque (1983) do."""
    count = torch.zeros(len(mask), dtype=torch.float64)
    mean, squares = torch.zeros_like(count), torch.zeros_like(count)
    for chunk in split.chunks:
        for rows in split.read(chunk):
            values = torch.from_numpy(rows)[:, : len(mask)].double()
            values = torch.where(mask, signed_log1p(values), values)
            known = ~torch.isnan(values)
            n = known.sum(dim=0).double()
            batch_mean = torch.nansum(values, dim=0) / n.clamp(min=1)
            deviation = torch.where(known, values - batch_mean, 0.0)
            delta, total = batch_mean - mean, (count + n).clamp(min=1)
            mean = mean + delta * n / total
            squares = squares + deviation.square().sum(dim=0) + delta.square() * count * n / total
            count = count + n
    std = (squares / count.clamp(min=1)).sqrt()
    std = torch.where(std < _SMALLEST_SCALE, 0.0, std)
    return Statistics(mean, std, 1 - count / split.rows)


class Prepare(nn.Module):
    """float32 [n, num_features] with NaN for unknown -> scaled float32 [n, num_features], unknown as the mean, 0."""

    def __init__(self, mask: torch.Tensor, statistics: Statistics) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("mean", statistics.mean.float())
        # A feature that never varied has untrained weights: it stays 0, so that new values have no effect.
        inverse = torch.where(statistics.std > 0, 1 / statistics.std, torch.zeros_like(statistics.std))
        self.register_buffer("inverse_std", inverse.float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = torch.where(self.mask, signed_log1p(features), features)
        values = (values - self.mean) * self.inverse_std
        return torch.where(torch.isnan(values), torch.zeros_like(values), values)


class ExportedModel(nn.Module):
    """Raw features float32 [n, num_features] -> the first output float32 [n, values], in the label's unit, and the
    values of each further output float32 [n, values]; a single output is a tensor, several are a tuple of them.

    It does not clip the outputs, nor sort quantiles: scoring does, by the limits that are declared at that time.
    """

    def __init__(self, pipeline: Trainable, prepare: Prepare, network: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.prepare, self.network, self.widths = prepare, network, list(widths)
        self.task = pipeline.task
        self.log_target = pipeline.network.target == "log1p"

    def forward(self, features: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        output = self.network(self.prepare(features))
        if len(self.widths) == 1:
            return self._apply_link(output)
        first, *others = torch.split(output, self.widths, dim=1)
        return (self._apply_link(first), *others)

    def _apply_link(self, output: torch.Tensor) -> torch.Tensor:
        if self.task == "binary":
            return torch.sigmoid(output)
        if self.task == "multiclass":
            return torch.softmax(output, dim=1)
        return torch.expm1(output) if self.log_target else output


def output_widths(pipeline: Trainable, classes: Sequence[str]) -> tuple[int, ...]:
    """Values a row of each output of the network; of an output of classes there is a logit for each class."""
    return tuple(len(classes) if output.kind == "classes" else output.values or 1 for output in pipeline.output_specs)


def network_builder(
    pipeline: Trainable, classes: Sequence[str], encoding: MatrixEncoding
) -> Callable[[int], torch.nn.Module]:
    """The declared `build` as a function of the number of features."""
    build, more = pipeline.network.build, ([len(classes)] if classes else [])
    columns = {name: CategoryColumn(*found) for name, found in encoding.categories.items()}
    told: dict[str, Any] = {"categories": columns} if columns else {}
    return lambda num_features: build(num_features, *more, **told)


def require_width(pipeline: Trainable, network: torch.nn.Module, num_features: int, width: int) -> None:
    """Refuse a network that does not return as many values a row as the outputs take.

    Raises:
        InputError: With both numbers.
    """
    network.eval()
    with torch.no_grad():
        found = tuple(network(torch.zeros(2, num_features)).shape)
    network.train()
    if found != (2, width):
        names = ", ".join(output.name for output in pipeline.outputs)
        raise InputError(
            f"The network of {pipeline.inline_name} returns {list(found)} for 2 rows, and its outputs ({names}) "
            f"take {width} values a row.",
            remedy="Return [rows, values] from the module that `build` makes, the outputs in their order.",
        )


class Objective(nn.Module):
    """The loss of outputs [n, values] against labels [n, 1], or labels and weights [n, 2], a scalar mean.

    Labels are in their own unit, classes as their positions. Without a declared loss, that of the first output counts:
    binary cross-entropy, Huber, cross-entropy, or the pinball loss (Koenker and Bassett 1978) over the levels.

    Args:
        width: Values of the first output.
    """

    def __init__(self, pipeline: Trainable, width: int = 1) -> None:
        super().__init__()
        self.loss, self.task, self.width = pipeline.network.loss, pipeline.task, width
        self.log_target = pipeline.network.target == "log1p"
        self.register_buffer("levels", torch.tensor(pipeline.output_specs[0].levels))

    def forward(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        target, weight = label[:, :1], label[:, 1:]
        target = torch.log1p(target) if self.log_target else target
        if not weight.shape[1]:
            return self._default(output, target, "mean") if self.loss is None else self.loss(output, target)
        losses = self._default(output, target, "none") if self.loss is None else self.loss(output, target)
        if losses.numel() != len(weight):
            raise InputError(
                f"The declared loss returns {losses.numel()} values for {len(weight)} rows that have weights.",
                remedy="Return a loss for each row, as `reduction='none'` does.",
            )
        return (losses.reshape(-1) * weight[:, 0]).mean()

    def _default(self, output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        first = output[:, : self.width]
        if self.task == "binary":
            return functional.binary_cross_entropy_with_logits(first, target, reduction=reduction)
        if self.task == "multiclass":
            return functional.cross_entropy(first, target[:, 0].long(), reduction=reduction)
        if self.task == "regression":
            return functional.huber_loss(first, target, reduction=reduction)
        difference = target - first
        losses = torch.maximum(self.levels * difference, (self.levels - 1) * difference).mean(dim=1)
        return losses.mean() if reduction == "mean" else losses


INPUT = "features"
_TOLERANCE = 1e-5


def export(model: ExportedModel, pipeline: Trainable, folder: Path, sample: torch.Tensor) -> dict[str, float]:
    """Write `model.pt2` and `model.onnx` (one file each) into the folder and compare them on a sample.

    Args:
        sample: Raw features, float32 [n >= 2, num_features], NaN for unknown.

    Returns:
        `parity_max_abs` and `parity_max_relative`: the largest difference of the two on the sample.

    Raises:
        CheckError: They differ by more than 1e-5 of max(1, |output|).
    """
    model = model.eval().cpu()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = torch.export.Dim("rows", min=1)
        program = torch.export.export(model, (sample[:2],), dynamic_shapes={INPUT: {0: rows}})
        torch.export.save(program, folder / TORCH_FILE)
        torch.onnx.export(
            program,
            (sample[:2],),
            folder / ONNX_FILE,
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[output.name for output in pipeline.outputs],
            verbose=False,
        )
    return _parity(model, folder / ONNX_FILE, sample)


def _parity(model: ExportedModel, onnx: Path, sample: torch.Tensor) -> dict[str, float]:
    from forecache.models.inference.runtimes.onnx import onnx_session

    session = onnx_session(onnx.read_bytes(), {})
    with torch.no_grad():
        returned = model(sample)
    expected = [each.numpy() for each in (returned if isinstance(returned, tuple) else (returned,))]
    pairs = list(zip(session.run(None, {INPUT: sample.numpy()}), expected, strict=True))
    largest = max(float(np.abs(actual - wanted).max()) for actual, wanted in pairs)
    relative = max(float((np.abs(a - e) / np.maximum(1.0, np.abs(e))).max()) for a, e in pairs)
    if not relative <= _TOLERANCE:
        raise CheckError(
            f"The ONNX export differs from the torch module by {relative:.2e} relative on {len(sample)} rows.",
            remedy="Use operators in the network that export exactly, or report the operator to torch.onnx.",
        )
    return {"parity_max_abs": largest, "parity_max_relative": relative}
