"""Transfer of a version's files to and from a remote; an interrupted download resumes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forecache.base.errors import CheckError, DamagedError, NotFoundError
from forecache.base.files import move_durably, sync
from forecache.base.folders import Folder
from forecache.base.results import Progress
from forecache.serve.store.content_hash import file_checksum
from forecache.serve.store.integrity import segment_files, verify_filter, verify_segment, version_files
from forecache.serve.store.layout import StoreLayout, remove_tree
from forecache.serve.store.manifest import Manifest, ShardInfo, manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.replicas.remote_files import manifest_name, read_content

_TRANSFERS = 4


def upload_missing(
    layout: StoreLayout, manifests: list[Manifest], remote: Folder, progress: Progress
) -> tuple[list[str], int]:
    """Upload the files that a remote lacks; returns (their names there, bytes)."""
    files = {
        f"{layout.root.name}/{name}": (path, info)
        for manifest in manifests
        for path, name, info in version_files(layout, manifest)
    }
    missing = {name: file for name, file in files.items() if remote.size(name) != file[1].size_bytes}
    done = 0
    total = sum(info.size_bytes for _, info in missing.values()) or 1
    with ThreadPoolExecutor(_TRANSFERS) as threads:
        uploads = [(threads.submit(remote.upload, path, name), info) for name, (path, info) in missing.items()]
        for upload, info in uploads:
            upload.result()
            done += info.size_bytes
            progress(f"Pushing version {manifests[0].version} to the remote", done / total)
    return list(missing), done


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
    for segment in missing:
        folder = layout.staging / f"pull-{segment.id}"
        folder.mkdir(exist_ok=True)
        infos = [info for _, _, info in segment_files(layout, segment)]
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            transfers = [
                threads.submit(fetch_file, remote, f"{root}/segments/{segment.id}/{info.file}", folder, info)
                for info in infos
            ]
            for transfer in transfers:
                travelled += transfer.result()
                files += 1
                progress(f"Pulling version {manifest.version}", min(1.0, travelled / total))
        sync(folder)
        move_durably(folder, layout.segment(segment.id))
    info = manifest.filter
    if info is not None and not layout.filter(info.file).exists():
        travelled += fetch_file(remote, f"{root}/filters/{info.file}", layout.staging, info)
        files += 1
        move_durably(layout.staging / info.file, layout.filter(info.file))
    return files, travelled


def fetch_file(remote: Folder, name: str, folder: Path, info: ShardInfo) -> int:
    """Fetch one file, continuing an interrupted download; returns the bytes copied.

    Raises:
        CheckError: The file does not have the checksum of the manifest; it is removed, so that a new try starts from
            the beginning.
    """
    target, part = folder / info.file, folder / f"{info.file}.part"
    if target.exists():
        return 0
    start = part.stat().st_size if part.exists() else 0
    travelled = 0
    if start < info.size_bytes:
        try:
            with open(part, "ab") as file:
                for chunk in remote.chunks(name, start):
                    file.write(chunk)
                    travelled += len(chunk)
        except FileNotFoundError:
            raise missing_file_error(name) from None
    sync(part)
    if part.stat().st_size != info.size_bytes or file_checksum(part) != info.checksum:
        part.unlink()
        raise CheckError(
            f"The file {name} does not have the checksum that the manifest says.",
            remedy="What is served is unchanged. Pull again; if it repeats, publish a full version.",
        )
    move_durably(part, target)
    return travelled


def missing_file_error(name: str) -> NotFoundError:
    return NotFoundError(f"The remote has no file {name}.", remedy="It was removed; pull again.")
