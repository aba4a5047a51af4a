"""Transfer of a version's files to and from a remote; an interrupted download resumes."""

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.files import move_durably, sync
from forecache.base.folders import Folder
from forecache.base.results import Progress
from forecache.kit.versioned.transfer import (
    fetch_files,
    missing_file_error,
    read_content,
    upload_missing,
)
from forecache.serve.store.integrity import segment_files, verify_filter, verify_segment, version_files
from forecache.serve.store.layout import StoreLayout, remove_tree
from forecache.serve.store.manifest import Manifest, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.replicas.remote_files import manifest_name


def upload_versions(
    layout: StoreLayout, manifests: list[Manifest], remote: Folder, progress: Progress
) -> tuple[list[str], int]:
    """Upload the files of versions that a remote lacks; returns (their names there, bytes)."""
    files = {
        f"{layout.name}/{name}": (path, info)
        for manifest in manifests
        for path, name, info in version_files(layout, manifest)
    }
    what = f"Pushing version {manifests[0].version} to the remote"
    return upload_missing(remote, files, lambda share: progress(what, share))


def fetch_manifests(remote: Folder, root: str, theirs: Pointer) -> list[Manifest]:
    """The manifest of the version that a remote serves, and of its current one if another one is pinned there."""
    assert theirs.serving is not None
    found = []
    for number in dict.fromkeys((theirs.serving, theirs.current)):
        content = None if number is None else read_content(remote, manifest_name(root, number))
        if content is None:
            if number == theirs.serving:
                raise missing_file_error(manifest_name(root, theirs.serving))
            continue
        manifest = manifest_from_json(content, what=f"The remote's {manifest_name(root, theirs.serving)}")
        if manifest.store != theirs.store:
            raise NotFoundError(f"The remote's {root} is about to be replaced.", remedy="Pull again.")
        found.append(manifest)
    return found


def has_version(layout: StoreLayout, manifest: Manifest) -> bool:
    """Return whether a version exists here with the same content, and not only with the same number."""
    try:
        return layout.manifest(manifest.version).read_bytes() == manifest.to_json()
    except FileNotFoundError:
        return False


def discard_damaged(layout: StoreLayout, manifest: Manifest) -> None:
    """Delete local files of a version whose checksum differs from the manifest, so that the pull fetches them again."""
    for segment in manifest.segments:
        try:
            verify_segment(layout, segment)
        except DamagedError:
            remove_tree(layout.segment(segment.id))
    try:
        verify_filter(layout, manifest)
    except DamagedError:
        assert manifest.filter is not None
        layout.filter(manifest.filter.file).unlink(missing_ok=True)


def fetch_segments(
    layout: StoreLayout, remote: Folder, root: str, manifest: Manifest, progress: Progress
) -> tuple[int, int]:
    """Fetch missing segments and the filter; returns (files, bytes) copied."""
    missing = [segment for segment in manifest.segments if not layout.segment(segment.id).exists()]
    total = sum(segment.size_bytes for segment in missing) or 1
    files = travelled = 0

    def report(copied: int) -> None:
        nonlocal files, travelled
        files, travelled = files + 1, travelled + copied
        progress(f"Pulling version {manifest.version}", min(1.0, travelled / total))

    for segment in missing:
        folder = layout.staging / f"pull-{segment.id}"
        folder.mkdir(exist_ok=True)
        there = {f"{root}/{name}": (folder / info.file, info) for _, name, info in segment_files(layout, segment)}
        fetch_files(remote, there, report)
        sync(folder)
        move_durably(folder, layout.segment(segment.id))
    info = manifest.filter
    if info is not None and not layout.filter(info.file).exists():
        fetch_files(remote, {f"{root}/filters/{info.file}": (layout.staging / info.file, info)}, report)
        move_durably(layout.staging / info.file, layout.filter(info.file))
    return files, travelled
