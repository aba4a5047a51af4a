"""Verify every file of the releases on this machine."""

from collections.abc import Sequence

from forecache.base.settings import Settings
from forecache.kit.versioned.verify import ReadPace, VerifyResult, verify_file, verify_versions
from forecache.realtime.release.folder import open_releases, read_release


def verify_releases(settings: Settings, names: Sequence[str], *, pace: ReadPace | None = None) -> list[VerifyResult]:
    """Verify the pointer and every release of these real-time models."""
    return [item for name in names for item in _verify_folder(settings, name, pace)]


def _verify_folder(settings: Settings, name: str, pace: ReadPace | None) -> list[VerifyResult]:
    folder = open_releases(settings, name)

    def verify(number: int) -> tuple[int, int]:
        files = read_release(folder, number).files
        return sum(verify_file(folder.release(number) / file, info, pace=pace) for file, info in files.items()), 0

    return verify_versions(folder, verify)
