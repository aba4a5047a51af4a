"""Models that are trained, a torch network or an estimator, and the settings of a training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from forecache.declare.checks import check_fields, check_least, check_value

if TYPE_CHECKING:
    import torch
    from torch import nn


class CategoryColumn(NamedTuple):
    """The column of a category's codes in a network's input, and the number of codes: 0 is null, 1 an unknown value."""

    column: int
    num_codes: int


@dataclass(frozen=True)
class TorchModel:
    """A torch network. Scaling, imputation and the output's link are added by the framework and exported with it.

    Attributes:
        build: `build(num_features)` returns a module from float32 [n, num_features] (scaled, no nulls) to [n, values]:
            first a logit if the label is binary, the (transformed) target if it is a regression, a value for each level
            if quantiles are learned, a logit for each class if it is multiclass; then the values of further outputs in
            their order. For a multiclass label it is called as `build(num_features, num_classes)`. If features are
            categories, it also gets `categories`, a `CategoryColumn` by feature name: those columns have codes, which
            are not scaled.
        target: "log1p" trains a regression on log1p of the label and exports expm1 of the output.
        loss: Loss of (output [n, values], target [n, 1]) as a scalar mean, or as one value a row [n] if the label has a
            weight; None: binary cross-entropy, Huber, pinball or cross-entropy of the first output. The target of a
            class is its position.
        fit: A training function of your own in place of the framework's loop: every worker calls `fit(run)` with a
            `forecache.FitRun`, and it returns the trained network, whose weights have the
            names of `build`'s. Of `Training`, only the dates, `batch_size`, `seed` and `deterministic` then apply.
    """

    build: Callable[..., "nn.Module"]
    target: Literal["identity", "log1p"] = "identity"
    loss: Callable[..., Any] | None = None
    fit: "Callable[[FitRun], nn.Module] | None" = None

    def __post_init__(self) -> None:
        check_fields("`TorchModel`", self)


@dataclass(frozen=True)
class EstimatorModel:
    """A scikit-learn-style estimator: LightGBM, XGBoost or scikit-learn. It is fitted in one process, in memory.

    It gets the features as the table has them, float32 [n, num_features] with NaN for null: LightGBM and XGBoost take
    that as it is, a scikit-learn estimator that does not needs an imputer before it in its own pipeline. Of `Training`,
    the dates, `refit` and the seed count: the seed becomes every `random_state` that the estimator leaves open.

    Attributes:
        build: `build()` returns the estimator, not fitted; with `predict_proba` if the label is binary or of several
            classes. For quantiles it is called as `build(levels)`, and returns an estimator for each level, or one that
            predicts all of them.
        patience: Number of boosting rounds without a better validation loss after which fitting ends and the best round
            is kept (LightGBM, XGBoost); None: all rounds are fitted and kept.
    """

    build: Callable[..., Any]
    patience: int | None = 50

    def __post_init__(self) -> None:
        check_fields("`EstimatorModel`", self)
        check_least("`EstimatorModel`", self, 1, "patience")


@dataclass(frozen=True)
class EntitySplit:
    """Splits by entity: an entity is in the same split on every date, chosen by a hash of its key.

    A model is then judged on entities that it has never seen, on dates that it has. All splits have the training dates
    of a split by time, moved to the latest whose labels are known.

    Attributes:
        validation: Approximate share of the entities in the validation split.
        test: Approximate share of the entities in the test split.
    """

    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        check_fields("`EntitySplit`", self)
        check_least("`EntitySplit`", self, 0, "validation", "test", above=True)
        rule = "Together with `validation` it is less than 1, so that some are left to train on."
        check_value("`EntitySplit`", "test", self.test, self.validation + self.test < 1, rule)


@dataclass(frozen=True)
class Training:
    """The dates, splits and optimizer settings of a training.

    For a training night T and horizon H the test as-of date is T-H, validation T-2H, and the training dates are
    T-3H and `num_as_of - 1` further ones, `every_days` apart, before it: no label reaches into a later split. Each is
    the latest as-of date of the pipeline's schedule up to that distance from the one after it.

    Attributes:
        split: None: by time, as above; `EntitySplit`: by entity, all on T-H and the dates before it.
        batch_size: Rows of an optimizer step over all workers.
        accumulation: Parts in which each worker computes the gradient of a step, one after the other: the gradient of
            the whole batch, in the memory of a part. Layers that look across rows (BatchNorm) see a part.
        max_gradient_norm: A gradient whose global norm is larger is scaled down to it; None: never.
        schedule: The learning rate after the warm-up: it stays at `learning_rate`, or falls to zero along half a cosine
            or a line until the last step of `epochs`.
        warmup_share: Share of all steps in which the learning rate first rises linearly from zero.
        parallel: "ddp" keeps the whole network on each device, "fsdp" a shard of it on each; "auto" is "fsdp" if
            weights, gradients, AdamW's moments and the best weights need more than 70% of a device's memory.
        precision: Type that the network computes in while it trains: "auto" is "bfloat16" on a GPU that has it, else
            "float32"; with "float16" the loss is scaled. Weights and the exported model stay float32, and so does
            validation with "ddp".
        compile: Compile the network with `torch.compile`; it needs a C++ compiler, and pays for large networks.
        deterministic: Use only algorithms that repeat to the bit; False: a GPU may train faster.
        patience: Number of epochs without a better validation loss after which training ends; the best weights are
            kept.
        refit: Train again on the rows of all splits, for the number of rounds or epochs that the validation split
            chose, and serve that model if the gate passes. The gate judges the one that has never seen the test split.
    """

    num_as_of: int = 4
    every_days: int = 30
    split: EntitySplit | None = None
    epochs: int = 20
    batch_size: int = 1024
    accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_gradient_norm: float | None = None
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_share: float = 0.0
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    deterministic: bool = True
    patience: int = 4
    seed: int = 7
    refit: bool = False

    def __post_init__(self) -> None:
        check_fields("`Training`", self)
        check_least(
            "`Training`", self, 1, "num_as_of", "every_days", "epochs", "batch_size", "accumulation", "patience"
        )
        check_least("`Training`", self, 0, "learning_rate", "max_gradient_norm", above=True)
        check_least("`Training`", self, 0, "weight_decay", "seed")
        share, rule = self.warmup_share, "It is a share of all steps: at least 0, less than 1."
        check_value("`Training`", "warmup_share", share, 0 <= share < 1, rule)


MakeState = Callable[[], dict[str, Any]]


class FitRun(Protocol):
    """A training run on this rank, for a declared `fit`; every rank has to call the same methods in the same order.

    Attributes:
        device: Device of the tensors; the network should be on it, too.
        rank: This process among the `world_size` workers; their process group is torch's default one.
        training: The declaration's `Training`.
        num_features: Columns of the features.
        num_rows: Rows of an epoch over all ranks, in `num_steps` steps.
        restored: If the run resumes, the state that the function gave to `step_done` or `end_epoch`, with whole tensors
            on the CPU; else None.
    """

    device: "torch.device"
    rank: int
    world_size: int
    training: "Training"
    num_features: int
    num_rows: int
    num_steps: int
    restored: dict[str, Any] | None

    @property
    def epoch(self) -> int:
        """The next epoch, or the one that the run resumes in, from 0."""

    @property
    def history(self) -> list[dict[str, float]]:
        """A record for each epoch that has ended, with `train_loss` and `validation_loss`."""

    def build(self) -> "nn.Module":
        """The declared network, equal on every rank, on the device."""

    def batches(self) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """This rank's share of each remaining step of the epoch; `step_done` has to be called after each.

        Random numbers are seeded for each step, so that a resumed run draws the same.

        Yields:
            Features float32 [n, num_features], scaled and without nulls, and labels float32 [n, 1] (for classes their
            positions), or [n, 2] with the weight second if the label has a weight. The shares of ranks can differ by a
            row, and be empty if a step has few rows; together they have `step_rows` rows.
        """

    @property
    def step_rows(self) -> int:
        """Rows of the current step over all ranks."""

    def loss(self, output: "torch.Tensor", label: "torch.Tensor") -> "torch.Tensor":
        """The declared loss of outputs [n, values] for labels as `batches` yields them, a scalar mean."""

    def step_done(self, make_state: MakeState) -> None:
        """Count a step, write a checkpoint if it is due, and end the run here if it was told to stop.

        Args:
            make_state: Called for a checkpoint; returns the state that the function needs to resume, tensors and plain
                values in dictionaries and lists. Rank 0's is saved; of DTensors each rank's shard.
        """

    def end_epoch(self, network: "nn.Module", make_state: MakeState, *, train_loss: float) -> float:
        """Evaluate the network, record the epoch and save; returns the validation loss over all ranks.

        Args:
            train_loss: Mean over the epoch, for `history`.
        """

    def sum(self, *values: float) -> list[float]:
        """The sums of values over all ranks."""
