"""Checks of the project, the lake, MLflow and the stores that the settings name."""

from pathlib import Path

from forecache.base.errors import NotFoundError, UnavailableError
from forecache.base.settings import Settings, unknown_variables
from forecache.cli.checks import Finding

_NAMED = 5


def check_variables() -> Finding:
    unknown = unknown_variables()
    if not unknown:
        return Finding("settings", "ok", "read from the environment and .env")
    meant = [f"{name} (did you mean {close}?)" if close else name for name, close in unknown.items()]
    remedy = "Rename or remove them; `forecache settings` lists all settings."
    return Finding("settings", "warn", f"no such setting: {', '.join(meant)}", remedy)


def check_project(settings: Settings) -> Finding:
    from forecache.declare.loading import read_project

    project = read_project(settings)
    pipelines = [*project.publishable, *project.realtime]
    if project.broken:
        usable = f"; usable: {', '.join(pipelines) or 'none'}"
        errors = " ".join(str(error) for error in project.broken.values())
        return Finding("pipelines", "fail", f"{errors.rstrip('.')}{usable}", "Fix them; the others run meanwhile.")
    if not pipelines:
        return Finding(
            "pipelines", "warn", f"none in {settings.project}.pipelines", "Declare one; see CONTRIBUTING.md."
        )
    return Finding("pipelines", "ok", f"{', '.join(pipelines)} in {settings.project}")


def check_lake(settings: Settings) -> Finding:
    from forecache.kit.delta.tables import table_names

    found = table_names(settings)
    if not found:
        return Finding(
            "lake", "warn", f"no table yet in {settings.lake_uri}", "Run `forecache demo` or `forecache run`."
        )
    return Finding("lake", "ok", f"{len(found)} tables in {settings.lake_uri}")


def check_mlflow(settings: Settings) -> Finding:
    uri = settings.mlflow_tracking_uri
    if not uri.startswith("sqlite:///"):
        return Finding("mlflow", "ok", f"server {uri.partition('@')[2] or uri} (not contacted)")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return Finding("mlflow", "warn", f"no database yet at {path}", "The first training run creates it.")
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("select count(*) from model_versions").fetchone()
    except sqlite3.Error as error:
        return Finding("mlflow", "fail", f"{path}: {error}", "Restore it, or remove the file and train again.")
    return Finding("mlflow", "ok", f"{count} model versions in {path}")


def check_stores(settings: Settings) -> Finding:
    """Check the pointers, and that served versions' files exist with their sizes; `doctor --deep` reads them."""
    from forecache.kit.versioned.pointer import pointer_problem
    from forecache.serve.store.integrity import check_sizes
    from forecache.serve.store.store import list_local_stores

    served, problems = [], []
    for store in list_local_stores(settings):
        try:
            manifest = store.current()
            if manifest is not None:
                check_sizes(store.layout, manifest)
                served.append(f"{store.pipeline} {manifest.version}")
            problem = pointer_problem(store.layout)
            if problem:
                problems.append(f"{store.pipeline}: {problem}")
        except (UnavailableError, NotFoundError) as error:
            problems.append(f"{store.pipeline}: {error.message}")
    if problems:
        remedy = "`forecache verify` lists the damage and how to repair it."
        return Finding("stores", "fail", f"{len(problems)} damaged: {' '.join(problems)}", remedy)
    return Finding("stores", "ok", f"served: {', '.join(served)}" if served else f"none in {settings.store_path} yet")


def check_rollbacks(settings: Settings) -> Finding:
    from forecache.declare.loading import read_project
    from forecache.models.registry.promotions import find_unfinished, promotions
    from forecache.serve.store import open_store

    interrupted = []
    for name in read_project(settings).publishable:
        entry, store = find_unfinished(promotions(settings, name)), open_store(settings, name)
        current = store.pointer().current
        if entry is not None:
            interrupted.append(
                f"{entry.action} of {name} from model {entry.from_version or 'none'} to {entry.to_version}"
            )
        elif (
            current in store.quarantined_versions()
        ):  # a rollback of the store alone moves the pointer after the quarantine
            interrupted.append(f"{name} from version {current}, which is quarantined and still current")
    if interrupted:
        return Finding(
            "rollbacks",
            "warn",
            f"interrupted: {', '.join(interrupted)}",
            "Run the same command again: it finishes that one and does nothing else. A run also finishes a model's.",
        )
    return Finding("rollbacks", "ok", "none was interrupted")


def check_files(settings: Settings) -> Finding:
    """Check that every data file of every table can be read."""
    from forecache.kit.delta.damage import find_damaged_files

    found = list(find_damaged_files(settings))
    if not found:
        return Finding("table files", "ok", "every data file of the lake was read")
    named = "; ".join(f"{file.table}: {file.path}. {file.problem}" for file in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    remedies = " ".join(dict.fromkeys(file.remedy for file in found))
    return Finding("table files", "fail", f"{len(found)} damaged: {named}{more}", remedies)
