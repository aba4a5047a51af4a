"""Embeddings in place of the codes of categories, for networks that are declared with `TorchModel`."""

from collections.abc import Mapping

import torch
from torch import nn

from forecache.declare.models.model import CategoryColumn


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
