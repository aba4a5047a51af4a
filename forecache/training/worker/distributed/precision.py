"""Mixed precision: which type the network computes in, and the scaling of the loss that float16 needs."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from forecache.errors import SettingsError

Declared = Literal["auto", "float32", "bfloat16", "float16"]


class Precision:
    """The type of a run's forward and backward passes; weights, gradients and optimizer state stay float32.

    Shards (FSDP) are gathered in that type (see `forecache.training.worker.distributed.parallel`): autocast then finds
    weights that need no copy of their own, and still gives each operation inputs of one type.

    Args:
        declared: "auto" is bfloat16 on a GPU that computes in it, float32 else.

    Attributes:
        name: The type taken.
        scaler: Scales the loss where the type is float16, whose gradients would underflow; passes all through else.

    Raises:
        SettingsError: bfloat16 is declared and the GPU does not compute in it.
    """

    def __init__(self, declared: Declared, device: torch.device) -> None:
        supported = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        if declared == "bfloat16" and not supported:
            raise SettingsError(
                f"`Training` has precision='bfloat16', which {torch.cuda.get_device_name(device)} does not compute in.",
                remedy="Declare 'auto', or 'float16', whose loss is scaled.",
            )
        if declared == "auto":
            declared = "bfloat16" if device.type == "cuda" and supported else "float32"
        self.name, self._device = declared, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=declared == "float16")

    @property
    def dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.name, torch.float32)

    def computing(self) -> AbstractContextManager[None]:
        """Around a forward pass of the network."""
        enabled = self.name != "float32"
        return torch.autocast(self._device.type, dtype=self.dtype if enabled else torch.bfloat16, enabled=enabled)
