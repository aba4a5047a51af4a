"""Finding one of the releases that are kept: the same made before, and the one to go back to."""

from collections.abc import Iterator

from forecache.errors import DamagedError, NotFoundError
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer, read_files, read_release


def same_inputs(folder: ReleaseFolder, pointer: ReleasePointer, inputs: str) -> int | None:
    """Find an undamaged release with these inputs: the current one, a rolled-back one, or the newest other one."""
    others = [number for number in reversed(folder.numbers()) if number not in (pointer.current, *pointer.bad)]
    for number in (pointer.current, *pointer.bad, *others):
        try:
            found = None if number is None else read_release(folder, number)
            if found is not None and found.inputs == inputs:
                read_files(folder.release(found.number), found.files)
                return found.number
        except (NotFoundError, DamagedError):
            continue
    return None


def before(folder: ReleaseFolder, pointer: ReleasePointer) -> int:
    """Find the newest undamaged release before the current one that was not rolled back.

    Raises:
        NotFoundError: There is none.
    """
    for number in numbers_before(folder, pointer):
        try:
            read_files(folder.release(number), read_release(folder, number).files)
        except DamagedError:
            continue
        return number
    raise NotFoundError(
        f"There is no release of {folder.name} before {pointer.current or 'the first'} to go back to.",
        remedy=f"`forecache releases {folder.name}` lists those that are here.",
    )


def numbers_before(folder: ReleaseFolder, pointer: ReleasePointer) -> Iterator[int]:
    """Numbers of the releases before the current one that were not rolled back, the newest first."""
    for number in reversed(folder.numbers()):
        if number < (pointer.current or 0) and number not in pointer.bad:
            yield number
