"""The checks of `forecache doctor` of trainings: the dates that the next one has, and the features of the last one."""

from contextlib import suppress

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.cli.base import Finding
from forecache.declare.as_of import newest_as_of
from forecache.declare.loading import read_project


def check_training_dates(settings: Settings) -> Finding:
    """Look for declared windows that are longer than the history before a training date."""
    trained = [pipeline for pipeline in read_project(settings).pipelines.values() if pipeline.is_trained]
    short = []
    for pipeline in (each for each in trained if any(view.windows for view in each.views)):
        from forecache.lake.training_set import as_of_dates, find_short_histories

        with suppress(InputError):  # too early to train at all
            short += find_short_histories(pipeline, as_of_dates(pipeline, newest_as_of(pipeline)))
    if short:
        return Finding("training dates", "warn", " ".join(short), "Train on fewer or later dates.")
    return Finding("training dates", "ok", "no declared window is longer than the history before them")


def check_champions(settings: Settings) -> Finding:
    """Look for champions that were trained on features of another definition than is declared now."""
    from forecache.models.registry.model_versions import find_champion
    from forecache.scoring.trained_features import find_other_features

    found = []
    for pipeline in read_project(settings).pipelines.values():
        try:
            champion = find_champion(settings, pipeline)
        except Exception as error:  # noqa: BLE001  (of whatever registry; the check of MLflow says what is wrong)
            return Finding("champions", "warn", f"not known: {str(error).splitlines()[0]}", "See the check mlflow.")
        found += find_other_features(settings, pipeline, champion) if champion is not None else []
    if found:
        return Finding("champions", "warn", " ".join(found), "Train them again.")
    return Finding("champions", "ok", "none was trained on features of another definition")
