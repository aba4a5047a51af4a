"""Publishing an as-of date only if its present rows passed their checks and its model was not rolled back.

Both are checked under the publisher's lock: neither a rollback nor a scoring run comes between check and publish.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta

from forecache.base.errors import CheckError, ConflictError, NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Pipeline, Served
from forecache.declare.loading import read_project
from forecache.declare.served import PluginTable, require_published
from forecache.lake.feature_rows import code_of
from forecache.lake.features import STAGE as BUILT
from forecache.lake.ledger import last_record, last_records, newest_record
from forecache.lake.quality.verdicts import refuse_failed_date, require_passed
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.registry.promotions import find_unfinished, promotions, rolled_back_versions
from forecache.operations.kept_contracts import hand_over_contract
from forecache.operations.rollback import recover_interrupted
from forecache.serve.store.encoding.prediction_source import NightSource, open_night
from forecache.serve.store.publishing.publish import publish
from forecache.serve.store.remote import open_remote, push_layer
from forecache.serve.store.remote_store import open_store
from forecache.stream.live_layers import write_layers

STAGE = "publish"
logger = logging.getLogger("forecache.publish")


def publish_night(
    settings: Settings,
    pipeline: Served,
    *,
    night: date | None = None,
    full: bool = False,
    unchecked: bool = False,
    replace_remote: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
    approve: Callable[[NightSource], None] = lambda _: None,
) -> StageResult:
    """Publish an as-of date, after checking that its rows passed their checks and its model was not rolled back.

    `approve` is called under the publisher's lock after these checks; refuses the date by raising.

    Raises:
        InputError: The pipeline is not published.
        CheckError: The rows were not checked or failed, their model was rolled back, or features were computed by
            another declaration; also what `publish` raises.
        ConflictError: A rollback was interrupted a moment ago.
    """

    def check_source(source: NightSource) -> None:
        _refuse_rolled_back(settings, pipeline, source)
        if isinstance(pipeline, FeatureView):
            _refuse_other_features(settings, pipeline, source)
        if unchecked:
            refuse_failed_date(settings, pipeline.served_table, source.night)
        else:
            _require_passed(settings, pipeline, source)
        approve(source)

    stage = Stage(settings, STAGE, pipeline.name, run_id)
    require_published(pipeline)
    _declare_layer(settings, pipeline)
    if isinstance(pipeline, FeatureView):
        hand_over_contract(settings, pipeline, progress=progress)
    if isinstance(pipeline, Pipeline):
        recover_interrupted(settings, pipeline, progress=progress)
    result = publish(settings, pipeline, night=night, full=full, replace_remote=replace_remote, run_id=run_id,
                     progress=progress, approve=check_source)  # fmt: skip
    if not result.skipped:
        _record_publish(stage, result)
    return result


class _NewerNight(Exception):
    """A newer as-of date than the chosen one passed its checks meanwhile, or is served."""


def publish_newest_night(
    settings: Settings, declared: Served, *, run_id: str = "", progress: Progress = no_progress
) -> StageResult:
    """Publish the newest as-of date whose present rows passed their checks, unless a newer one is served.

    Other runs may write a newer date that they have not checked yet, and publish it before this run does.
    """
    started = time.perf_counter()

    def refuse_older(source: NightSource) -> None:
        # What is served may not be in the ledger yet, but has passed; or it is written again, but is in the ledger.
        next_night = source.night + timedelta(days=1)
        newest = (_find_published_night(settings, declared), _find_passed_night(settings, declared, since=next_night))
        if any(night is not None and night > source.night for night in newest):
            raise _NewerNight

    published = _find_published_night(settings, declared)
    night = _find_passed_night(settings, declared, since=published)
    while True:
        try:
            if published is not None and night is None:
                if isinstance(declared, Pipeline):
                    recover_interrupted(settings, declared, progress=progress)
                raise _NewerNight
            return publish_night(
                settings, declared, night=night, run_id=run_id, progress=progress, approve=refuse_older
            )
        except _NewerNight:
            published = _find_published_night(settings, declared)
            chosen, night = night, _find_passed_night(settings, declared, since=published)
            if night == chosen:
                none = f"the rows of {published} and of later dates have not passed their checks since they changed"
                why = f"; {none}" if chosen is None else f", which is after {chosen}"
                progress(f"{declared.name} is served as of {published or 'a later date'}{why}", None)
                seconds = time.perf_counter() - started
                return StageResult(STAGE, declared.name, 0, seconds, table=declared.served_table, skipped=True)


def _find_published_night(settings: Settings, declared: Served) -> date | None:
    """The last published as-of date in the ledger."""
    last = newest_record(settings, STAGE, declared.name)
    return None if last is None else last.as_of


def _find_passed_night(settings: Settings, declared: Served, *, since: date | None) -> date | None:
    """The newest as-of date, not before `since`, whose present rows passed; without one the newest in the ledger.

    None without any, or if there are earlier dates, which are not looked at: a ledger has years of them.
    """
    if isinstance(declared, PluginTable):
        stage, subject = declared.maker.stage, declared.maker.name
    else:
        stage, subject = BUILT if isinstance(declared, FeatureView) else "score", declared.name

    def has_passed(night: date) -> bool:
        try:
            _require_passed(settings, declared, open_night(settings, declared, night))
        except (CheckError, NotFoundError):
            return False
        return True

    within = () if since is None else (since, date.max)
    chosen = sorted((n for n in last_records(settings, stage, subject, nights=within) if n), reverse=True)
    if (night := next(filter(has_passed, chosen), None)) is not None:
        return night
    if since is not None:
        chosen = [n for n in last_records(settings, stage, subject) if n]
    is_first = bool(chosen) and (since is None or min(chosen) >= since)
    return max(chosen) if is_first else None


def _require_passed(settings: Settings, declared: Served, source: NightSource) -> None:
    # Features are checked as the Delta version that wrote them, predictions as their data files.
    of_view = isinstance(declared, FeatureView)
    state = f"{declared.served_table}@{source.source.delta_version}" if of_view else source.digest
    blocking = isinstance(declared, Pipeline) and declared.drift.blocking
    require_passed(settings, declared.served_table, source.night, state=state, drift=blocking)


def _record_publish(stage: Stage, result: StageResult) -> None:
    """Record the time that a publish took; the manifest describes what it published."""
    [night] = result.nights
    done = StageOutcome(result.rows, {"version": result.details["version"]})
    try:
        stage.record({night: done}, {night: ""}, result.seconds)
    except Exception as error:  # noqa: BLE001  # the version is served, and a failure would say that it is not
        logger.warning("What publishing %s took was not recorded: %s", result.subject, error)


def _declare_layer(settings: Settings, pipeline: Served) -> None:
    """Give the store a live layer if a declared stream writes to it, even on a machine on which the stream never ran.

    A publish overlays the rows of the stream that the file LIVE names.
    """
    for stream in read_project(settings).streams.values():
        if pipeline.name in stream.live_names:
            write_layers(settings, stream, only=pipeline.name)
            if settings.store_remote:
                with suppress(Exception):  # the publish says what is wrong with the remote, and the next one retries
                    remote = open_remote(settings.store_remote, settings.storage_options, patience_s=10.0)
                    push_layer(open_store(settings, pipeline.name).layout, remote)


def _refuse_other_features(settings: Settings, view: FeatureView, source: NightSource) -> None:
    """Refuse features that an earlier declaration of the view computed: the version would claim the present one."""
    built = last_record(settings, BUILT, view.name, source.night)
    code = code_of(built.inputs) if built else ""
    if code not in ("", view.fingerprint):
        raise CheckError(
            f"The features of {view.name} for {source.night} were computed before its declaration or code changed.",
            remedy=f"`forecache run --date {source.night}` computes and publishes them as they are declared now.",
        )


def _refuse_rolled_back(settings: Settings, pipeline: Served, source: NightSource) -> None:
    entries = promotions(settings, pipeline.name)
    interrupted = find_unfinished(entries)
    if interrupted is not None:
        raise ConflictError(
            f"A {interrupted.action} of {pipeline.name} was interrupted a moment ago.",
            remedy="Publish again: that finishes it first.",
        )
    # Versions of a model that is not trained here are numbers of another kind.
    bad = rolled_back_versions(entries) if isinstance(pipeline, Pipeline) and pipeline.is_trained else set()
    model = source.provenance.model_version if bad else None
    if model in bad:
        raise CheckError(
            f"The predictions of {pipeline.name} for {source.night} were made by model {model}, which was rolled back.",
            remedy=f"`forecache run {pipeline.name} --date {source.night}` scores them with the champion first.",
        )
