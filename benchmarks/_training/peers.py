"""Other ways to feed the same loop: tensors in memory, and a PyTorch DataLoader over a pandas frame."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from forecache.training.worker.data import Batch, EpochOrder


class MemoryReader:
    """Batches gathered from two tensors by a random permutation."""

    def __init__(self, order: EpochOrder, features: torch.Tensor, target: torch.Tensor) -> None:
        self.order, self.features, self.target = order, features, target
        self.lanes: tuple[int, ...] = ()
        self.digests: dict[int, str] = {}

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        permutation = torch.randperm(len(self.features), generator=torch.Generator().manual_seed(epoch))
        start = 0
        for step in range(self.order.num_steps):
            rows = permutation[start : start + self.order.step_rows(step)]
            start += len(rows)
            yield Batch(self.features[rows], self.target[rows])


class FrameRows(Dataset):  # type: ignore[type-arg]
    """A row of a pandas frame at a time, as the tutorials write it."""

    def __init__(self, frame: pd.DataFrame, label: str) -> None:
        self.features, self.label = frame.drop(columns=label), frame[label]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.from_numpy(self.features.iloc[index].to_numpy())
        return features, torch.tensor([self.label.iloc[index]], dtype=torch.float32)


class MatrixRows(Dataset):  # type: ignore[type-arg]
    """The same frame taken out of pandas first: what somebody does who has profiled the other."""

    def __init__(self, frame: pd.DataFrame, label: str) -> None:
        self.features = frame.drop(columns=label).to_numpy(np.float32)
        self.label = frame[[label]].to_numpy(np.float32)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.features[index]), torch.from_numpy(self.label[index])


class LoaderReader:
    """Batches of a shuffling DataLoader."""

    def __init__(self, dataset: Dataset, *, batch_rows: int, num_workers: int) -> None:  # type: ignore[type-arg]
        self.loader: Any = DataLoader(dataset, batch_size=batch_rows, shuffle=True, num_workers=num_workers)
        self.lanes: tuple[int, ...] = ()
        self.digests: dict[int, str] = {}

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        for features, target in self.loader:
            yield Batch(features, target)
