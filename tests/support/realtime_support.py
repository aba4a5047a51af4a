"""Views and stores for the releases of `release_support`, written directly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from reader_support import write_version

from forecache.base.settings import Settings
from forecache.serve.store import KeyColumn, KeySchema
from forecache.serve.store.manifest import Field

HOUSEHOLD_KEY = KeySchema((KeyColumn("household_id", "int"),))
PRODUCT_KEY = KeySchema((KeyColumn("product_id", "string"),))


def write_packed(
    settings: Settings,
    name: str,
    rows: Mapping[Any, Sequence[float]],
    *,
    key: KeySchema,
    fields: Sequence[Field],
    contract: str = "",
    **more: Any,
) -> int:
    """Write a packed version and make it current; its number. `more` as of `write_version`."""
    entries = {each: np.array(numbers, "<f4").tobytes() for each, numbers in rows.items()}
    return write_version(
        settings.store_path, name, entries, key=key, fields=tuple(fields), layout="packed", contract=contract, **more
    )


def write_views(settings: Settings, *, shift: float = 0.0, **more: Any) -> None:
    """The views `household` (1 and 2) and `product` (a, b, c) that `make_release` looks up by default."""
    write_packed(
        settings, "household", {1: (10.0 + shift, 2.0), 2: (20.0 + shift, 4.0)}, key=HOUSEHOLD_KEY,
        fields=(Field("spend_28d", "float"), Field("visits_28d", "float")), **{"contract": "contract-h", **more},
    )  # fmt: skip
    write_packed(
        settings, "product", {"a": (0.1 + shift,), "b": (0.9 + shift,), "c": (0.5 + shift,)}, key=PRODUCT_KEY,
        fields=(Field("popularity", "float"),), contract="contract-p",
    )  # fmt: skip
