"""Fitted models in folders: `model.json`, and a file for each array. Nothing in it is ever executed.

Arrays are `.npy`, which several processes can map from one file; keys are Arrow IPC files. `model.json` is written
last, so a folder that has it is whole.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.errors import ConflictError, InputError, NotFoundError
from forecache.files import write_durably
from forecache.recommend.models.als import FittedAls
from forecache.recommend.models.base import Fitted
from forecache.recommend.models.ease import FittedEase
from forecache.recommend.models.fallback import FittedWithFallback
from forecache.recommend.models.habits import FittedHabits
from forecache.recommend.models.popularity import FittedPopularity
from forecache.recommend.models.repeat_purchase import FittedRepeatPurchase
from forecache.recommend.models.two_towers import FittedTwoTowers

KINDS: dict[str, type[Fitted]] = {
    each.kind: each
    for each in (
        FittedAls,
        FittedEase,
        FittedHabits,
        FittedPopularity,
        FittedRepeatPurchase,
        FittedTwoTowers,
        FittedWithFallback,
    )
}
_DESCRIPTION, _FORMAT = "model.json", 1


def save(fitted: Fitted, folder: Path) -> None:
    """Write a fitted model into a new or empty folder.

    Raises:
        ConflictError: The folder holds something.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConflictError(f"The folder {folder} is not empty.", remedy="Save the model into a new one.")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(fitted):  # type: ignore[arg-type]  # every fitted model is a dataclass
        value = getattr(fitted, field.name)
        if isinstance(value, np.ndarray):
            np.save(folder / f"{field.name}.npy", value, allow_pickle=False)
        elif isinstance(value, pa.Array):
            _write_keys(value, folder / f"{field.name}.arrow")
        elif isinstance(value, Fitted):
            save(value, folder / field.name)
        else:
            values[field.name] = value
    description = {"format": _FORMAT, "kind": fitted.kind, "values": values}
    write_durably(folder / _DESCRIPTION, json.dumps(description, indent=1) + "\n")


def load(folder: Path, *, mapped: bool = False) -> Fitted:
    """Read a model that `save` wrote; equal to the bit.

    Args:
        mapped: Arrays stay on the disk and are read where they are used; processes share the pages.

    Raises:
        NotFoundError: There is no whole model.
        InputError: It is of a kind or format that this version does not know, or a file of it is missing or damaged.
    """
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise NotFoundError(f"There is no recommender in {folder}.", remedy="Fit one and save it there.")
    try:
        description = json.loads(path.read_text())
        kind, layout, values = description["kind"], description["format"], dict(description["values"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a recommender: {error}.", remedy="Save the model again.") from error
    if layout != _FORMAT or kind not in KINDS:
        raise InputError(
            f"{path} is of kind {kind!r} and format {layout!r}.",
            remedy=f"This version reads format {_FORMAT} of {', '.join(sorted(KINDS))}.",
        )
    try:
        for field in dataclasses.fields(KINDS[kind]):  # type: ignore[arg-type]
            if field.name not in values:
                values[field.name] = _read(folder, field.name, mapped=mapped)
        return KINDS[kind](**values)
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"The recommender in {folder} is damaged: {error}.", remedy="Save the model again.") from error


def _read(folder: Path, name: str, *, mapped: bool) -> Any:
    if (folder / name).is_dir():
        return load(folder / name, mapped=mapped)
    if (folder / f"{name}.arrow").is_file():
        return _read_keys(folder / f"{name}.arrow")
    return np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)


def _write_keys(keys: pa.Array, path: Path) -> None:
    batch = pa.record_batch({"key": keys})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _read_keys(path: Path) -> pa.Array:
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all().column("key").combine_chunks()
