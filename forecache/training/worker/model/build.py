"""Building the declared network: what its function is told, and whether what it returns has the right shape."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from forecache.errors import InputError
from forecache.inference.encoding import Encoding
from forecache.pipeline import Pipeline
from forecache.pipeline.models.model import CategoryColumn


def builder(pipeline: Pipeline, classes: Sequence[str], encoding: Encoding) -> Callable[[int], torch.nn.Module]:
    """The declared `build` as a function of the number of features."""
    build, more = pipeline.network.build, ([len(classes)] if classes else [])
    columns = {name: CategoryColumn(*found) for name, found in encoding.categories.items()}
    told: dict[str, Any] = {"categories": columns} if columns else {}
    return lambda num_features: build(num_features, *more, **told)


def require_width(pipeline: Pipeline, network: torch.nn.Module, num_features: int, width: int) -> None:
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
            f"The network of {pipeline.called} returns {list(found)} for 2 rows, and its outputs ({names}) "
            f"take {width} values a row.",
            remedy="Return [rows, values] from the module that `build` makes, the outputs in their order.",
        )
