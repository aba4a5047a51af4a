"""Files of a folder that another folder gets without reading them: as hard links, or in a bucket as copies that the
object store makes itself."""

import errno
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from forecache.base.errors import SettingsError, UnavailableError
from forecache.base.folders import BucketFolder, Folder, open_folder
from forecache.kit.delta.files import Place

_COPIES_AT_ONCE = 16


def open_place(place: Place) -> Folder:
    """Open a table's location, or another folder of a lake or of a home, as a folder of files."""
    return open_folder(place.uri, place.options, setting="FORECACHE_LAKE")


def share_files(
    source: Place, target: Place, names: Iterable[str] | Mapping[str, str], *, missing_ok: bool = False
) -> None:
    """Give files that nobody writes again to another folder, under their names or, by a mapping, under new ones.

    Raises:
        FileNotFoundError: The source lacks one, and `missing_ok` is false.
        SettingsError: The folders are on two file systems or in two buckets, or one of them is in a bucket.
        UnavailableError: The files belong to another user, whose files this one may not link.
    """
    renamed = names if isinstance(names, Mapping) else {name: name for name in names}
    suppressed = (FileNotFoundError,) if missing_ok else ()
    if "://" not in source.uri + target.uri:
        for name, new in renamed.items():
            with suppress(*suppressed):
                _link(Path(source.uri, name), Path(target.uri, new))
        return
    require_near(source, target)
    (bucket, folder), (_, new_folder) = _split(source.uri), _split(target.uri)
    root = _open_bucket(bucket, tuple(sorted(source.options.items())))

    def copy(pair: tuple[str, str]) -> None:
        with suppress(*suppressed):
            root.copy(folder + pair[0], new_folder + pair[1])

    with ThreadPoolExecutor(_COPIES_AT_ONCE, thread_name_prefix="forecache-copies") as threads:
        list(threads.map(copy, renamed.items()))


def require_near(source: Place, target: Place) -> None:
    """Raise SettingsError unless both are folders, or in the same bucket, and the target is outside of the source."""
    (bucket, folder), (other, new_folder) = _split(source.uri), _split(target.uri)
    if bucket == other and not new_folder.startswith(folder):
        return
    where = "in" if bucket == other else "not in the bucket of"
    raise SettingsError(
        f"The trial's tables cannot be in {target.uri}: it is {where} {source.uri}.",
        remedy="Set FORECACHE_TRIALS to a folder for a lake in a folder, else to a prefix of its bucket, outside it.",
    )


def _split(uri: str) -> tuple[str, str]:
    """The bucket of a URI, "" for a folder, and what names of files in it begin with."""
    if "://" not in uri:
        return "", f"{uri}/"
    parts = urlsplit(uri.replace("s3a://", "s3://", 1))
    path = parts.path.strip("/")
    return f"{parts.scheme}://{parts.netloc}", f"{path}/" if path else ""


@lru_cache(maxsize=4)
def _open_bucket(uri: str, options: tuple[tuple[str, str], ...]) -> BucketFolder:
    """Open a bucket, with connections that later calls use again."""
    return BucketFolder(uri, dict(options))


def _link(source: Path, target: Path) -> None:
    """Make a hard link, and the folder that it is in if that is missing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        if target.parent.is_dir():
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise SettingsError(
                f"The trials' folder is on another file system than {source}, and a fork consists of hard links.",
                remedy="Set FORECACHE_TRIALS to a folder on the file system of the lake.",
            ) from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UnavailableError(
                f"{source} cannot be linked: it belongs to another user, and Linux lets only who may write it do so.",
                remedy="Run as the user or in the group that may write the lake's files; a trial does not write them.",
            ) from None
        raise
