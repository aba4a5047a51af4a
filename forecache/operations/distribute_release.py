"""Follow up a change of a model's releases: alerts to people, and the copy on the remote."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from forecache.base.errors import ForecacheError, NotEverywhereError, UnreachableError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, rollout_step
from forecache.realtime.release.folder import ReleaseFolder, lock_releases
from forecache.realtime.release.follow_lake import follow_lake, has_unsent, is_undecided, mark_sent
from forecache.realtime.release.lake_state import ReleaseState
from forecache.realtime.release.replicas import push_releases
from forecache.serve.store.remote import open_remote


@contextmanager
def report_replica_failure(pipeline: str, what: str) -> Iterator[None]:
    """Turn any error of the block, which updates replicas, into a `NotEverywhereError`: the local change is done."""
    try:
        yield
    except Exception as error:  # the clients of Redis and of object stores have errors of their own
        cause = error.message if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
        raise NotEverywhereError(
            f"{what} That is done here, but not in every replica of {pipeline}: {cause}",
            remedy=f"Fix the cause, then run `forecache store push {pipeline}`.",
        ) from error


def distribute_state(
    settings: Settings, folder: ReleaseFolder, state: ReleaseState, what: str, *, now: datetime | None = None
) -> None:
    """Notify people of the rollout, and push a change that the remote does not have; the caller holds the lock.

    If it is killed or fails, the next operation, or the next look of the controller, does it again.

    Raises:
        NotEverywhereError: The change is done here, but not in the lake, or not on the remote.
    """
    if state.rollout is not None:
        for notify_of_rollout in find_hooks("notify_of_rollout"):
            notify_of_rollout(settings, state.rollout, now or datetime.now(timezone.utc))
        rollout_step("notified")
    if not has_unsent(folder):
        return
    begin_work(f"bringing releases of {folder.name} to others")
    with report_replica_failure(folder.name, what):
        if is_undecided(folder):
            raise UnreachableError(f"the lake {settings.lake_uri} could not be reached.")
        if settings.store_remote and state.pointer.current is not None:
            push_releases(folder, open_remote(settings.store_remote, settings.storage_options), state)
    mark_sent(folder)


def bring_unsent(settings: Settings, folder: ReleaseFolder) -> None:
    """Bring what was done here to the lake and the remote, before a push or a pull; else nothing needs the lake."""
    if has_unsent(folder):
        what = f"Releases of {folder.name} have changed."
        with lock_releases(folder, action="push"), report_replica_failure(folder.name, what):
            distribute_state(settings, folder, follow_lake(settings, folder), what)
