"""Kubernetes objects of deploy/, and patches on them as kustomize applies them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml


def load(path: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def patched(base: Any, patch: Any) -> Any:
    """A strategic merge as Kubernetes does it: objects by key, lists of named things by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: patched(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in [*base, *patch]):
        by_name = {item["name"]: item for item in base}
        return list((by_name | {item["name"]: patched(by_name.get(item["name"]), item) for item in patch}).values())
    return deepcopy(patch)
