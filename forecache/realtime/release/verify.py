"""Verify every file of the releases on this machine."""

from collections.abc import Sequence

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.settings import Settings
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_current, read_files, read_release
from forecache.serve.store.checkup import VerifyResult


def verify_releases(settings: Settings, names: Sequence[str]) -> list[VerifyResult]:
    """Verify every release of these real-time models; one result for each release and for each damaged pointer."""
    return [item for name in names for item in _verify_folder(open_releases(settings, name))]


def _verify_folder(folder: ReleaseFolder) -> list[VerifyResult]:
    name, found = folder.name, []
    try:
        current = read_current(folder).current
    except DamagedError as error:
        current = None
        found.append(VerifyResult(name, None, ("current",), error.message))
    for number in sorted({*folder.numbers(), *([] if current is None else [current])}):
        state, problem, read = ("current",) if number == current else (), "", 0
        try:
            release = read_release(folder, number)
            read = sum(map(len, read_files(folder.release(number), release.files).values()))
        except (DamagedError, NotFoundError) as error:
            problem = error.message
        found.append(VerifyResult(name, number, state, problem, read))
    return found
