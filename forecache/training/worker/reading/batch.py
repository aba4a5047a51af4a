"""A batch of rows of one rank."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Batch:
    """Rows of one step on one rank, float32 [n, num_features + num_labels]: last the label, or it and its weight."""

    rows: torch.Tensor
    num_labels: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> torch.Tensor:
        """float32 [n, num_features], a view."""
        return self.rows[:, : -self.num_labels]

    @property
    def target(self) -> torch.Tensor:
        """float32 [n, num_labels], a view."""
        return self.rows[:, -self.num_labels :]

    def parts(self, number: int) -> "list[Batch]":
        """The batch in `number` parts; some are empty if it has fewer rows."""
        return [replace(self, rows=rows) for rows in self.rows.tensor_split(number)]

    def or_placeholder(self) -> "Batch":
        """This batch, or one row of zeros if it is empty: a rank without rows still takes part in collectives."""
        return self if len(self) else replace(self, rows=self.rows.new_zeros((1, self.rows.shape[1])))

    def on(self, device: torch.device) -> "Batch":
        """The same rows on a device.

        On a GPU the rows are pinned as one block, so that a single asynchronous copy is made.
        """
        if device.type == "cpu":
            return self
        return replace(self, rows=self.rows.pin_memory().to(device, non_blocking=True))
