"""A worker's session: the validation loss in half the precision, and the random numbers of each step."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable, write_deltalake
from torch import nn

from forecache.declare import Training
from forecache.plugins.torch.worker.reader import EpochOrder
from forecache.plugins.torch.worker.session import TrainingSession
from forecache.plugins.torch.worker.split import TableSplit

ROWS = 500
X = np.linspace(-9, 9, ROWS, dtype=np.float32)
DATA: dict[str, Any] = {"as_of": [date(2024, 1, 1)] * ROWS, "x": X, "label": (X > 1).astype("f8")}


class Halved(nn.Module):
    """Returns bfloat16, as a network under FSDP does that computes in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(features).bfloat16()
        return output


@pytest.fixture
def session(tmp_path: Path) -> TrainingSession:
    """A session of one rank without a process group, over 500 rows with the feature x and the label x > 1."""
    write_deltalake(tmp_path / "examples", pa.table({"split": ["validation"] * ROWS, **DATA}))
    split = TableSplit(DeltaTable(tmp_path / "examples"), "validation", features=("x",), label="label", cache_bytes=0)
    order = EpochOrder(split, seed=1, batch_rows=50, lanes=8, shuffle_rows=200)
    alone: Any = SimpleNamespace(
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        asked_to_stop=False,
        copy_from_rank_0=list,
        sum=lambda *values: list(values),
        maximum=lambda *values: list(values),
    )
    unused: Any = None
    return TrainingSession(
        alone,
        Training(num_as_of=1),
        prepare=lambda features: features,
        objective=nn.functional.binary_cross_entropy_with_logits,
        train=order,
        validation=order,
        checkpoints=unused,
        checkpoint_steps=1,
        report=unused,
        beat=lambda step: None,
    )


def test_the_loss_of_outputs_in_bfloat16_is_computed_in_float32(session: TrainingSession) -> None:
    network = Halved()
    output = network(torch.from_numpy(DATA["x"])[:, None]).detach().double()
    expected = nn.functional.binary_cross_entropy_with_logits(output, torch.from_numpy(DATA["label"])[:, None])
    assert session.validation_loss(network, dict) == pytest.approx(float(expected), rel=1e-6)


def numbers(session: TrainingSession) -> list[float]:
    """A random number in each step that is left of the epoch."""
    drawn = []
    for _ in session.batches():
        drawn.append(float(torch.rand(())))
        session.step += 1
    return drawn


def test_a_step_draws_the_same_numbers_when_it_is_resumed_and_setting_them_keeps_nothing(
    session: TrainingSession,
) -> None:
    queued = len(torch.cuda._queued_calls)
    drawn = numbers(session)
    assert len(set(drawn)) == ROWS // 50
    session.step = 3
    assert numbers(session) == drawn[3:]
    assert len(torch.cuda._queued_calls) == queued
