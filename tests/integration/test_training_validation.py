"""The validation loss of a network that computes in half the precision."""

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

from forecache.pipeline import Training
from forecache.training.worker.data import EpochOrder, Split
from forecache.training.worker.session import Session

ROWS = 500


class Halved(nn.Module):
    """Returns bfloat16, as a network under FSDP does that computes in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(features).bfloat16()
        return output


def test_the_loss_of_outputs_in_bfloat16_is_computed_in_float32(tmp_path: Path) -> None:
    x = np.linspace(-9, 9, ROWS, dtype=np.float32)
    data = {"split": ["validation"] * ROWS, "as_of": [date(2024, 1, 1)] * ROWS, "x": x, "label": (x > 1).astype("f8")}
    write_deltalake(tmp_path / "examples", pa.table(data))
    split = Split(DeltaTable(tmp_path / "examples"), "validation", features=("x",), label="label", cache_bytes=0)
    order = EpochOrder(split, seed=1, batch_rows=50, lanes=8, shuffle_rows=200)
    alone: Any = SimpleNamespace(
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        asked_to_stop=False,
        share=list,
        sum=lambda *values: list(values),
        maximum=lambda *values: list(values),
    )
    unused: Any = None
    session = Session(
        alone,
        Training(num_as_of=1),
        prepare=lambda features: features,
        objective=nn.functional.binary_cross_entropy_with_logits,
        train=order,
        validation=order,
        checkpoints=unused,
        checkpoint_steps=1,
        report=unused,
        beat=unused,
    )
    network = Halved()
    output = network(torch.from_numpy(x)[:, None]).detach().double()
    expected = nn.functional.binary_cross_entropy_with_logits(output, torch.from_numpy(data["label"])[:, None])
    assert session.validation_loss(network, dict) == pytest.approx(float(expected), rel=1e-6)
