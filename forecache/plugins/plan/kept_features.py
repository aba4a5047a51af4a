"""The stages that would build the earlier features which models score that were trained on them."""

from collections.abc import Sequence
from datetime import date

from forecache.base.errors import ForecacheError
from forecache.base.table_names import FEATURES
from forecache.declare import Pipeline
from forecache.lake.features import STAGE
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.sources import count_rows
from forecache.models.registry.model_versions import CHAMPION
from forecache.operations.kept_features import find_stale_features, list_scoring_models
from forecache.plugins.plan.findings import Findings
from forecache.scoring.trained_features import find_scored_pipeline

AGAIN = "its rows are written again"


def note_kept_features(
    noted: Findings, declared: Pipeline, nights: Sequence[date], built: dict[str, list[date]], condition: str
) -> None:
    """Note the stages of earlier features, and their dates in `built`, by table; those of the champion with the
    condition that no other model takes its place.
    """
    settings = noted.settings
    rows = count_rows(settings, declared.all_sources, last=max(nights)) if declared.is_trained else None
    for model in list_scoring_models(settings, declared):
        read = find_scored_pipeline(settings, declared, model).feature_table
        is_champion = CHAMPION in model.aliases
        unless = condition.replace("if ", "unless ", 1) if is_champion else ""
        written = {*built.get(read, [])}
        try:
            stale = find_stale_features(settings, declared, model, nights, rebuild=noted.rebuild)
        except ForecacheError:
            if is_champion:
                raise
            continue  # a run goes on without the challenger
        for work in stale:
            dates = noted.add_stale(work, condition=unless, rows=rows)
            if work.stage.name != STAGE:
                continue
            table, about = FEATURES + work.stage.subject, f"the features of {work.stage.subject} are written again"
            noted.causes.pending[table] = about
            if table == read:
                written |= {*dates}
                noted.add(CHECK, table, dates, AGAIN, condition=unless)
        built[read] = sorted(written)
