"""What a name on the command line means, among what the project declares and the models that are released here."""

from typing import TYPE_CHECKING

from forecache.errors import NotFoundError

if TYPE_CHECKING:
    from forecache.pipeline.project import Published
    from forecache.settings import Settings


def find_published(current: "Settings", name: str, *, or_model: bool = False) -> "Published":
    """A pipeline, recommender or feature view by name.

    Args:
        or_model: The command takes real-time models, too, and has found no release of one by this name.

    Raises:
        NotFoundError: Nothing has that name; the message says what was looked for, and lists what there is.
        InputError: It is a real-time model, declared or only released here, or a stream.
    """
    from forecache.pipeline.loading import load_served, of_requests, read_project

    if not or_model:
        if is_released(current, name):
            raise of_requests(name)
        return load_served(current, name)
    if name in read_project(current).realtime:
        raise nothing_released(name)
    return load_served(current, name, models=released_models(current))


def require_model(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's, neither declared nor released here; raises `NotFoundError`."""
    from forecache.pipeline import load_realtime

    if not is_released(current, name):
        load_realtime(current, name, released=released_models(current))


def require_log(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's and has no request log either; raises `NotFoundError`."""
    from forecache.lake.delta.tables import table_exists
    from forecache.realtime.log.record import table_of

    if not table_exists(current, table_of(name)):
        require_model(current, name)


def require_spool(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's and of which nothing waits here either; raises `NotFoundError`.

    It asks no lake: rows are spooled while that is away, too.
    """
    from forecache.realtime.log.spool.files import models_in

    if name not in models_in(current.request_log_path):
        require_model(current, name)


def require_release(current: "Settings", name: str) -> None:
    """Refuse a name of which nothing is released here; raises `NotFoundError`."""
    if not is_released(current, name):
        require_model(current, name)
        raise nothing_released(name)


def is_released(current: "Settings", name: str) -> bool:
    """Whether a name is that of a real-time model with a release here."""
    from forecache.realtime.release.folder import open_releases

    return bool(open_releases(current, name).numbers())


def has_stream_alone(current: "Settings", name: str) -> bool:
    """Whether a store has a live layer and no version."""
    from forecache.store import open_store

    store = open_store(current, name)
    return store.layout.live.exists() and store.pointer().serving is None


def released_models(current: "Settings") -> list[str]:
    """The real-time models with a release here, in alphabetical order."""
    from forecache.realtime.release.here import released_here

    return [name for name in released_here(current) if is_released(current, name)]


def nothing_released(name: str) -> NotFoundError:
    """The error where a real-time model has no release here."""
    return NotFoundError(f"Nothing is released of {name}.", remedy=f"Run `forecache release {name}`.")
