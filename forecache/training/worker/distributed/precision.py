"""Mixed precision: which type the network computes in, and the scaling of the loss that float16 needs."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from forecache.errors import SettingsError

Declared = Literal["auto", "float32", "bfloat16", "float16"]


class Precision:
    """The type of a run's forward and backward passes; weights, gradients and optimizer state stay float32.

    FSDP gathers shards in that type (see `forecache.training.worker.distributed.parallel`), so that autocast need not
    copy the weights; it still casts each operation's inputs to one type.

    Args:
        declared: "auto" is bfloat16 on a GPU that supports it, float32 otherwise.

    Attributes:
        name: The chosen type.
        scaler: Scales the loss in float16, where gradients would underflow; does nothing in other types.

    Raises:
        SettingsError: bfloat16 is declared and the GPU does not support it.
    """

    def __init__(self, declared: Declared, device: torch.device) -> None:
        supported = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        if declared == "bfloat16" and not supported:
            raise SettingsError(
                f"`Training` has precision='bfloat16', which {torch.cuda.get_device_name(device)} does not support.",
                remedy="Declare 'auto', or 'float16', which scales the loss.",
            )
        if declared == "auto":
            declared = "bfloat16" if device.type == "cuda" and supported else "float32"
        self.name, self._device = declared, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=declared == "float16")

    @property
    def dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.name, torch.float32)

    def computing(self) -> AbstractContextManager[None]:
        """Context for a forward pass of the network."""
        enabled = self.name != "float32"
        return torch.autocast(self._device.type, dtype=self.dtype if enabled else torch.bfloat16, enabled=enabled)
