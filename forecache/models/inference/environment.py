"""The description of a model in its MLflow folder, and comparison of its required packages with the installed ones.

The driver compares the model's requirements with its own packages, and sends the workers the versions of those that
decide about a value; a worker with other versions refuses before it scores a row. A package counts as
installed if another one provides the same module: a model that requires `xgboost` runs with `xgboost-cpu`. Runs inside
Spark's Python workers: imports nothing heavy. MLmodel is read without MLflow, whose import takes two seconds.
"""

import json
import re
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forecache.base.errors import InputError, NotFoundError
from forecache.models.inference.runtimes.runtime import Runtime

# Operators whose version the model accepts; other operators name the first version that it does not accept.
_ASKS = ("==", "~=", ">=", "<=")


def deciding_versions(model_path: Path, runtime: Runtime) -> dict[str, str]:
    """Installed packages that decide about a runtime's values; for a generic runtime those that the model requires."""
    names = runtime.packages
    file = model_path / "requirements.txt"
    if runtime.generic:
        wanted = re.findall(r"(?m)^\s*([\w.-]+)", file.read_text().lower()) if file.is_file() else []
        modules = {_module_of(name) for name in wanted}
        names = tuple(name for name in names if _module_of(name) in modules)
    providers = dict.fromkeys(found for name in names if (found := _provider(name)) is not None)
    return {name: metadata.version(name) for name in providers}


def require_versions(packages: Mapping[str, str]) -> None:
    """Refuse to score, by InputError, if a package is missing or has another version than on the driver."""
    for name, planned, here in differing_versions(packages):
        raise InputError(
            f"The worker {socket.gethostname()} ({sys.executable}) has {name} {here}, "
            f"and the driver, which compared the model with its own packages, has {planned}.",
            remedy="Give executors the driver's environment: the same image, archive or path.",
        )


def differing_versions(packages: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, given version and version here of each package whose version here differs."""
    here = {name: _installed_version(name) for name in packages}
    return [(name, wanted, here[name] or "not installed") for name, wanted in packages.items() if here[name] != wanted]


@cache
def _installed_version(name: str) -> str | None:
    """The version of a package, or of the one that provides its module."""
    provider = _provider(name)
    return None if provider is None else metadata.version(provider)


@cache
def _provider(name: str) -> str | None:
    """The installed package of this name, else the one that provides the module of that name; None without one."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        module = _module_of(name)
        if find_spec(module) is None:
            return None
        return next(iter(metadata.packages_distributions().get(module, ())), None)
    return name


def _module_of(name: str) -> str:
    """The module that a package provides; suffixes of builds for other devices or sizes are removed."""
    return re.sub(r"[-_.]+", "_", re.sub(r"[-_.](cpu|gpu|cuda|skinny|headless|binary)$", "", name.lower()))


def compare_environment(model_path: Path, packages: Collection[str]) -> tuple[str, ...]:
    """A sentence for each package of a model's `requirements.txt` that is missing or installed in another version;
    InputError if `packages` has it and it is missing or has another major version."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import Version

    file = model_path / "requirements.txt"
    if not file.is_file():
        return ()
    modules = {_module_of(name) for name in packages}
    warnings: list[str] = []
    for line in file.read_text().splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith(("-", "#")):
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            warnings.append(f"the model's requirement {text!r} cannot be compared")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        major = _module_of(wanted.name) in modules
        installed = _installed_version(wanted.name)
        if installed is None:
            if major:
                raise InputError(
                    f"The model needs {text}, and {wanted.name} is not installed.",
                    remedy=f"Install it here and on the executors: `pip install {text!r}`.",
                ) from None
            warnings.append(f"the model was logged with {text}; {wanted.name} is not installed")
            continue
        if wanted.specifier.contains(Version(installed).public, prereleases=True):
            continue
        named = [clause.version.removesuffix(".*") for clause in wanted.specifier if clause.operator in _ASKS]
        asked = {Version(text).major for text in named}
        if major and asked and Version(installed).major not in asked:
            raise InputError(
                f"The model needs {text}, and version {installed} is installed: another major version.",
                remedy="Install the model's version, or train and log the model again with this one.",
            )
        warnings.append(f"the model was logged with {text}; {installed} is installed")
    return tuple(warnings)


@dataclass(frozen=True)
class ModelDescription:
    """The parts of an MLmodel file that scoring needs; inputs and outputs as the signature's JSON describes them."""

    flavours: Mapping[str, Mapping[str, Any]]  # each flavour's own settings, by its name
    metadata: Mapping[str, Any]  # metadata that the model was logged with
    inputs: Sequence[Mapping[str, Any]] | None
    outputs: Sequence[Mapping[str, Any]] | None


def describe_model(path: Path) -> ModelDescription:
    """The description of the model in a folder; NotFoundError without one, InputError if it cannot be read."""
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
