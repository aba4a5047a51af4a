"""The small files that a remote has of a store."""

from forecache.folders import Folder


def remote_versions(remote: Folder, name: str) -> dict[int, bool]:
    """The versions of which a remote has the manifest, in any order, and whether each is quarantined there."""
    files = {file.rpartition("/")[2] for file in remote.names(f"{name}/versions")}
    numbers = [stem for file in files if (stem := file.removesuffix(".json")).isdigit()]
    return {int(stem): f"{stem}.bad" in files for stem in numbers}


def content_of(remote: Folder, name: str) -> bytes | None:
    """The bytes of a small file, None if it is not there."""
    found = remote.read(name)
    return None if found is None else found[0]


def manifest_name(name: str, version: int) -> str:
    return f"{name}/versions/{version:08d}.json"


def quarantine_name(name: str, version: int) -> str:
    return f"{name}/versions/{version:08d}.bad"
