"""Find a name on the command line among the project's declarations and the models released here."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from forecache.base.errors import NotFoundError, UnavailableError
from forecache.base.table_names import unknown_name_error
from forecache.declare.loading import (
    load_nightly,
    load_pipelines,
    load_served,
    load_trainable,
    load_trained,
    read_project,
    realtime_name_error,
)

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.declare.project import Published


def find_published(current: "Settings", name: str, *, or_model: bool = False) -> "Published":
    """A pipeline, recommender or feature view by name.

    Args:
        or_model: True if the command accepts real-time models, too, and has found no release with this name.

    Raises:
        NotFoundError: Nothing has that name; the message has the kinds that were searched, and the known names.
        InputError: It is a real-time model, declared or only released here, or a stream.
    """
    if not or_model:
        if is_released(current, name):
            raise realtime_name_error(name)
        return load_served(current, name)
    if name in read_project(current).realtime:
        raise nothing_released_error(name)
    return load_served(current, name, models=released_models(current))


def require_model(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's, neither declared nor released here; raises `NotFoundError`."""
    from forecache.declare import load_realtime

    if not is_released(current, name):
        load_realtime(current, name, released=released_models(current))


def require_log(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's and has no request log either; raises `NotFoundError`."""
    from forecache.kit.delta.tables import table_exists
    from forecache.realtime.log.record import table_of

    if not table_exists(current, table_of(name)):
        require_model(current, name)


def require_spool(current: "Settings", name: str) -> None:
    """Refuse a name that is no real-time model's and that has no spooled rows here; raises `NotFoundError`.

    It does not read the lake: rows are spooled while the lake is unavailable, too.
    """
    from forecache.realtime.log.spool_files import spooled_models

    if name not in spooled_models(current.request_log_path):
        require_model(current, name)


def require_release(current: "Settings", name: str) -> None:
    """Refuse a name without a release here; raises `NotFoundError`."""
    if not is_released(current, name):
        require_model(current, name)
        raise nothing_released_error(name)


def is_released(current: "Settings", name: str) -> bool:
    """True if a real-time model with this name has a release here, or in the lake."""
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.lake_state import read_lake_state

    if open_releases(current, name).numbers():
        return True
    try:
        return read_lake_state(current, name) is not None
    except UnavailableError:
        return False


def is_stream_only(current: "Settings", name: str) -> bool:
    """True if a store has a live layer and no version."""
    from forecache.serve.store import open_store

    store = open_store(current, name)
    return store.layout.live.exists() and store.pointer().serving is None


def released_models(current: "Settings") -> list[str]:
    """The real-time models with a release here, or in the lake, in alphabetical order."""
    from forecache.realtime.release.lake_state import list_models_in_lake
    from forecache.realtime.release.released_models import list_released_models

    names = set(list_released_models(current))
    with suppress(UnavailableError):
        names |= set(list_models_in_lake(current))
    return sorted(name for name in names if is_released(current, name))


def nothing_released_error(name: str) -> NotFoundError:
    """The error for a real-time model without a release here."""
    return NotFoundError(f"Nothing is released of {name}.", remedy=f"Run `forecache release build {name}`.")


def resolve_served_names(current: "Settings", names: Sequence[str]) -> list[str]:
    """The given names, each checked; those of all pipelines and recommenders if none is given."""
    if not names:
        return list(read_project(current).publishable)
    return [load_served(current, name).name for name in dict.fromkeys(names)]


def resolve_nightly_names(current: "Settings", names: Sequence[str]) -> list[str]:
    """The given names, each checked; the names of everything with a nightly run if none is given."""
    if not names:
        return list(read_project(current).nightly)
    return [load_nightly(current, name).name for name in dict.fromkeys(names)]


def resolve_ingest_names(current: "Settings", names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the given names, each checked, into those with a nightly run and those of sources with landing files."""
    project = read_project(current)
    sources = [name for name in dict.fromkeys(names) if name in project.landed_sources and name not in project.nightly]
    others = [name for name in dict.fromkeys(names) if name not in sources]
    try:
        return [load_nightly(current, name).name for name in others], sources
    except NotFoundError:
        lacking = next(name for name in others if name not in project.nightly)
        there = [*project.nightly, *project.landed_sources]
        kinds = "pipeline, recommender, feature view, real-time model or source with landing files"
        raise unknown_name_error(lacking, kinds, there, where=current.project) from None


def resolve_pipeline_names(current: "Settings", names: Sequence[str]) -> list[str]:
    """The given names, each checked; those of all pipelines and real-time models if none is given."""
    if not names:
        return [*load_pipelines(current), *read_project(current).realtime]
    return [load_trainable(current, name).name for name in dict.fromkeys(names)]


def resolve_trained_names(current: "Settings", names: Sequence[str]) -> list[str]:
    """The given names, each checked; the names of all pipelines and models that are trained here if none is given."""
    if not names:
        return list(read_project(current).trained_models)
    return [load_trained(current, name).name for name in dict.fromkeys(names)]
