"""A batch of rows of one rank."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Rows of one step on one rank, float32 [n, num_features + 1], the label last."""

    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> torch.Tensor:
        """float32 [n, num_features], a view."""
        return self.rows[:, :-1]

    @property
    def target(self) -> torch.Tensor:
        """float32 [n, 1], a view."""
        return self.rows[:, -1:]

    def parts(self, number: int) -> "list[Batch]":
        """The batch in `number` parts; some are empty if it has fewer rows."""
        return [Batch(rows) for rows in self.rows.tensor_split(number)]

    def or_placeholder(self) -> "Batch":
        """This batch, or one row of zeros if it is empty: a rank without rows still takes part in collectives."""
        return self if len(self) else Batch(self.rows.new_zeros((1, self.rows.shape[1])))

    def on(self, device: torch.device) -> "Batch":
        """The same rows on a device.

        On a GPU the rows are pinned as one block, so that a single asynchronous copy is made.
        """
        if device.type == "cpu":
            return self
        return Batch(self.rows.pin_memory().to(device, non_blocking=True))
