"""Kubernetes objects of deploy/, and what `kubectl apply -k` makes of a folder of them, as far as deploy/ uses it."""

from collections.abc import Iterator
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


def build(folder: Path, objects: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The objects of a kustomization, or `objects` as a component changes them.

    Raises:
        AssertionError: The kustomization has a field that is not known here, or a patch of no object.
    """
    [wanted] = load(folder / "kustomization.yaml")
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images", "replacements"}
    assert set(wanted) <= known, f"{folder.name}: {set(wanted) - known}"
    made = list(objects or ())
    for name in wanted.get("resources", ()):
        made += build(folder / name) if (folder / name).is_dir() else load(folder / name)
    for name in wanted.get("components", ()):
        made = build(folder / name, made)
    for entry in wanted.get("patches", ()):
        [patch] = load(folder / entry["path"])
        [number] = [number for number, item in enumerate(made) if _identity(item) == _identity(patch)]
        made[number] = patched(made[number], patch)
    made = deepcopy(made)
    for image in wanted.get("images", ()):
        for item in made:
            for container in containers_of(item):
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for entry in wanted.get("replacements", ()):
        source = entry["source"]
        parent, key = _find(_object(made, source), source["fieldPath"])
        for target in entry["targets"]:
            for path in target["fieldPaths"]:
                place, name = _find(_object(made, target["select"]), path)
                place[name] = parent[key]
    return made


def pod_templates(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods' metadata and spec in an object: of a workload, of a timer's job, or a pod itself."""
    if item["kind"] in ("Pod", "PodTemplate"):
        yield item
    elif isinstance(item.get("spec"), dict):
        spec = item["spec"].get("jobTemplate", item)["spec"]
        if "template" in spec:
            yield spec["template"]


def containers_of(item: dict[str, Any]) -> list[dict[str, Any]]:
    """All containers of an object's pods."""
    return [
        container
        for pod in pod_templates(item)
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    ]


def _identity(item: dict[str, Any]) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _object(objects: list[dict[str, Any]], selected: dict[str, Any]) -> dict[str, Any]:
    [found] = [item for item in objects if _identity(item) == (selected["kind"], selected["name"])]
    return found


def _find(item: Any, path: str) -> tuple[Any, str]:
    """The place of a field path and the field's name there, such as `spec.containers.[name=reader].image`."""
    *parents, last = path.split(".")
    for part in parents:
        if part.startswith("["):
            key, _, value = part[1:-1].partition("=")
            [item] = [each for each in item if each[key] == value]
        else:
            item = item[part]
    assert last in item, path
    return item, last
