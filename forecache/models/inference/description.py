"""Description of an MLflow model, read from its MLmodel file: importing MLflow for that would take two seconds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecache.base.errors import InputError, NotFoundError


@dataclass(frozen=True)
class ModelDescription:
    """The parts of an MLmodel file that scoring needs.

    Attributes:
        flavours: Each flavour's own settings, by its name.
        metadata: Metadata that the model was logged with.
        inputs, outputs: Of the signature, as its JSON describes them; None without one.
    """

    flavours: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]] | None
    outputs: Sequence[Mapping[str, Any]] | None


def describe_model(path: Path) -> ModelDescription:
    """The description of the model in a folder.

    Raises:
        NotFoundError: The folder holds no MLflow model.
        InputError: Its MLmodel file cannot be read.
    """
    import yaml

    file = path / "MLmodel"
    try:
        document = yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        signature = document.get("signature") or {}
        inputs, outputs = (json.loads(signature.get(side) or "null") for side in ("inputs", "outputs"))
        flavours = document["flavors"]
    except FileNotFoundError:
        raise NotFoundError(
            f"The folder {path} holds no MLflow model: it has no file MLmodel.",
            remedy="Give a folder that `mlflow.<flavour>.save_model` wrote.",
        ) from None
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"The file {file} describes no MLflow model: {type(error).__name__} {str(error).splitlines()[0]}.",
            remedy="Log the model again.",
        ) from None
    return ModelDescription(flavours, document.get("metadata") or {}, inputs, outputs)
