"""What the feature function uses."""

from typing import Any

DISCOUNT = 1.0


def net(column: Any) -> Any:
    return column * DISCOUNT


def unrelated() -> int:
    return 1
