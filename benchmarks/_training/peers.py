"""Other ways to feed the same loop: tensors in memory, PyTorch DataLoaders over a frame or a matrix, LitData."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from forecache.plugins.torch.worker.reader import EpochOrder


class Pair:
    """A batch as these readers have it, in two tensors: putting them together would cost them a copy."""

    def __init__(self, features: torch.Tensor, target: torch.Tensor) -> None:
        self.features, self.target = features, target

    def __len__(self) -> int:
        return len(self.target)

    def on(self, device: torch.device) -> "Pair":
        return Pair(self.features.to(device), self.target.to(device))

    def parts(self, number: int) -> "list[Pair]":
        return [Pair(*part) for part in zip(self.features.chunk(number), self.target.chunk(number), strict=True)]

    def or_placeholder(self) -> "Pair":
        return self


class MemoryReader:
    """Batches gathered from two tensors by a random permutation."""

    def __init__(self, order: EpochOrder, features: torch.Tensor, target: torch.Tensor) -> None:
        self.order, self.features, self.target = order, features, target
        self.lanes: tuple[int, ...] = ()
        self.digests: dict[int, str] = {}

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Pair]:
        permutation = torch.randperm(len(self.features), generator=torch.Generator().manual_seed(epoch))
        start = 0
        for step in range(self.order.num_steps):
            rows = permutation[start : start + self.order.step_rows(step)]
            start += len(rows)
            yield Pair(self.features[rows], self.target[rows])


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
    """The same frame taken out of pandas first: what somebody does who has profiled the other.

    With a BatchSampler an index is a list: the rows of a whole batch are gathered at once.
    """

    def __init__(self, frame: pd.DataFrame, label: str) -> None:
        self.features = frame.drop(columns=label).to_numpy(np.float32)
        self.label = frame[[label]].to_numpy(np.float32)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.features[index]), torch.from_numpy(self.label[index])


class LoaderReader:
    """Batches of a shuffling DataLoader, a row or a whole batch an index; its worker processes live on from epoch to
    epoch."""

    def __init__(self, dataset: Any, *, batch_rows: int, num_workers: int, whole_batches: bool = False) -> None:
        options: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        if whole_batches:
            sampler = BatchSampler(RandomSampler(dataset), batch_rows, drop_last=False)
            self.loader: Any = DataLoader(dataset, sampler=sampler, batch_size=None, **options)
        else:
            self.loader = DataLoader(dataset, batch_size=batch_rows, shuffle=True, **options)
        self.lanes: tuple[int, ...] = ()
        self.digests: dict[int, str] = {}

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Pair]:
        for features, target in self.loader:
            yield Pair(features, target)


class LitDataReader:
    """Batches of a shuffling LitData stream from its own format on disk, label in the last column."""

    def __init__(self, folder: Path, *, batch_rows: int, num_workers: int) -> None:
        _add_peers()
        from litdata import StreamingDataLoader, StreamingDataset

        dataset = StreamingDataset(str(folder), shuffle=True, drop_last=False)
        self.loader: Any = StreamingDataLoader(
            dataset, batch_size=batch_rows, num_workers=num_workers, persistent_workers=num_workers > 0
        )
        self.lanes: tuple[int, ...] = ()
        self.digests: dict[int, str] = {}

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Pair]:
        for rows in self.loader:
            yield Pair(rows[:, :-1], rows[:, -1:])


def write_litdata(rows: np.ndarray, folder: Path) -> None:
    """Write rows [n, features + label] float32 as a LitData data set, one sample a row."""
    _add_peers()
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True)
    writer = BinaryWriter(str(folder), chunk_bytes=1 << 26)
    for place in range(len(rows)):
        writer.add_item(place, torch.from_numpy(rows[place]))
    writer.done()
    writer.merge(1)


def _add_peers() -> None:
    sys.path.append(os.environ["FORECACHE_BENCH_PEERS"])
