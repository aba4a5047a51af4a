"""Kept contracts: earlier definitions of a feature view whose features are published as long as a release names them.

A contract has its own tables and its own store, named `<view>__<contract>`; a look-up reads that store if the view's
own has another contract. It ends when no current release, rollout or recent release names it any more.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, contract_step, is_looking
from forecache.base.table_names import FEATURES, TILES, kept_name
from forecache.declare import FeatureView
from forecache.kit.delta.tables import remove_table, table_exists
from forecache.kit.installation import open_lake
from forecache.kit.versioned.transfer import read_content
from forecache.lake.features import STAGE as FEATURES_STAGE
from forecache.lake.kept_definitions import list_contracts, read_definition, remove_definition
from forecache.lake.ledger import StageRecord, append_records, last_records, ledger_records
from forecache.lake.quality.pending_files import Run
from forecache.lake.stage_runner import hold_table_lock
from forecache.operations.view_definitions import KeptTask, run_definition
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_release
from forecache.realtime.release.format import RELEASE_FILE, Release, release_from_json
from forecache.realtime.release.lake_state import ReleaseState, list_models_in_lake, read_lake_state, use_origin
from forecache.serve.store.integrity import VERIFY_EVERY_S, verify_version
from forecache.serve.store.layout import REALTIME, remove_tree
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.pointer import new_store_id
from forecache.serve.store.push_pull import has_store, open_fetched_store, remove_store, sync_targets
from forecache.serve.store.remote_store import list_served_manifests, open_store

REMOVED = "removed"
"""Inputs of a ledger's row that says that a table is gone, so that its dates are built again if it returns."""


@dataclass(frozen=True)
class ContractUsers:
    """The releases that name contracts, in words, by view and contract.

    Attributes:
        alive: Those that answer, are rolled out, or were current until a few days ago.
        retained: All that can be made current again.
        lost: Releases, in words, whose files are found neither here nor where all machines find them, as by a wrong
            FORECACHE_STORE_REMOTE: the contracts that they name are not known. `needed_lost` are those of `alive`.
    """

    alive: Mapping[tuple[str, str], tuple[str, ...]]
    retained: frozenset[tuple[str, str]]
    lost: tuple[str, ...] = ()
    needed_lost: tuple[str, ...] = ()


def find_contract_users(settings: Settings, *, now: datetime | None = None) -> ContractUsers:
    """Find the releases of all models that name a contract; raises `UnavailableError` if the lake does not tell."""
    now = now or datetime.now(timezone.utc)
    alive: dict[tuple[str, str], list[str]] = {}
    retained: set[tuple[str, str]] = set()
    lost, needed_lost = list[str](), list[str]()
    for name in list_models_in_lake(settings):
        state = read_lake_state(settings, name)
        if state is None:
            continue
        folder = open_releases(settings, name)
        releases = dict(_read_releases(settings, folder, state))
        retained |= {(each.view, each.contract) for release in releases.values() for each in release.lookups}
        lost += [f"release {number} of {name}" for number in state.inputs if number not in releases]
        for number in _find_needed(settings, state, releases, now):
            if number not in releases:
                needed_lost.append(f"release {number} of {name}")
                continue
            for each in releases[number].lookups:
                alive.setdefault((each.view, each.contract), []).append(f"release {number} of {name}")
    found = {key: tuple(dict.fromkeys(users)) for key, users in alive.items()}
    return ContractUsers(found, frozenset(retained), tuple(lost), tuple(dict.fromkeys(needed_lost)))


def _read_releases(settings: Settings, folder: ReleaseFolder, state: ReleaseState) -> Iterator[tuple[int, Release]]:
    """Read the retained releases that are not lost: here, or where all machines find them."""
    for number in state.inputs:
        try:
            yield number, read_release(folder, number)
        except (DamagedError, NotFoundError):
            file = f"{REALTIME}/{folder.name}/releases/{number:08d}/{RELEASE_FILE}"
            with use_origin(settings, folder.name) as origin:
                content = read_content(origin, file)
            if content is not None:
                yield number, release_from_json(content, what=f"The file {file}")


def _find_needed(
    settings: Settings, state: ReleaseState, releases: Mapping[int, Release], now: datetime
) -> Iterator[int]:
    """The current release, those of a rollout, and the one to which a rollback would go, for some days."""
    current, rollout = state.pointer.current, state.running
    if current is None:
        return
    yield current
    if rollout is not None:
        yield rollout.release
        yield rollout.current
    since = releases[current].created_at if current in releases else ""
    if state.rollout is not None and state.rollout.release == current and state.rollout.steps:
        since = max(since, state.rollout.step.until)
    earlier = [number for number in state.inputs if number < current and number not in state.pointer.bad]
    if earlier and (not since or now - _parse(since) < timedelta(days=settings.kept_contract_days)):
        yield max(earlier)


def _parse(moment: str) -> datetime:
    return datetime.fromisoformat(moment.replace("Z", "+00:00"))


def keep_contracts(run: Run, view: FeatureView, nights: Sequence[date]) -> None:
    """Build and publish the earlier contracts of a view that releases name, and remove those that none names.

    One that cannot be built is an objection of the run: its last version stays published until it is too old.
    """
    if view.publish is None:
        return
    settings, declared = run.settings, view.packed.contract
    others = [contract for _, contract in list_contracts(settings, view.name) if contract != declared]
    if not others:
        return
    try:
        users = find_contract_users(settings)
        if users.needed_lost and settings.base is None:  # a trial has no remote, where they may be
            lost = " and ".join(users.needed_lost)
            _object(run, f"The files of {lost} are not found, so contracts of the view {view.name} may not be kept.")
        for contract in others:
            who = " and ".join(users.alive.get((view.name, contract), ()))
            if who:
                _keep(run, (view.name, contract), max(nights), who)
        if not is_looking():
            retire_contracts(settings, users, view=view, run_id=run.run_id, progress=run.progress)
    except (ForecacheError, OSError) as error:
        _object(run, f"Earlier contracts of the view {view.name} could not be looked after: {error}")


def _keep(run: Run, key: tuple[str, str], night: date, who: str) -> None:
    """Build, check and publish the newest date of a view's contract, unless a later one is published."""
    settings, gone = run.settings, f"The features that {who} was trained with are not built any more"
    try:
        definition = read_definition(settings, *key)
    except DamagedError as error:
        _object(run, f"{gone}: {error}")
        return
    name = definition.kept_name
    if definition.problem or any(each.as_of > str(night) for each in list_served_manifests(settings, [name])):
        return
    if is_looking():
        # Late rows also make the view's own features stale, which is looked at next.
        built = last_records(settings, FEATURES_STAGE, name, nights=[night])
        if night not in built or built[night].inputs == REMOVED:
            begin_work(f"features of {name}")
        return
    run.report_progress(f"{name} is kept for {who}")
    rebuild = run.rebuild or not table_exists(settings, FEATURES + name)
    try:
        run_definition(KeptTask(settings, definition, (night,), run.run_id, rebuild), progress=run.progress)
    except ForecacheError as error:
        _object(run, f"{gone}: {error}")


def _object(run: Run, reason: str) -> None:
    run.report_progress(reason)
    run.add_objection(reason)


def hand_over_contract(settings: Settings, view: FeatureView, *, progress: Progress = no_progress) -> None:
    """Give the served version of a view to the store of its contract, if another contract is about to replace it.

    Nothing is copied: the files are linked. So look-ups find each contract at any moment, also if its definition cannot
    be built. Killed anywhere, it is done by the next publish.
    """
    contracts = {contract for _, contract in list_contracts(settings, view.name)} - {view.packed.contract}
    if not contracts:
        return
    for manifest in list_served_manifests(settings, [view.name]):
        key = (view.name, manifest.contract)
        if manifest.contract in contracts and not _is_given_up(settings, key) and _may_be_needed(settings, key):
            begin_work(f"keeping the contract {manifest.contract} of {view.name}")
            _hand_over(settings, view, manifest, progress)


def _is_given_up(settings: Settings, key: tuple[str, str]) -> bool:
    """Return whether a definition says that it cannot be kept; one that is damaged does not."""
    try:
        return bool(read_definition(settings, *key).problem)
    except DamagedError:
        return False


def _may_be_needed(settings: Settings, key: tuple[str, str]) -> bool:
    """Return True unless the lake tells that no release needs a contract now."""
    try:
        users = find_contract_users(settings)
        return key in users.alive or bool(users.needed_lost)
    except ForecacheError:
        return True


def _hand_over(settings: Settings, view: FeatureView, manifest: Manifest, progress: Progress) -> None:
    name = kept_name(view.name, manifest.contract)
    kept = open_store(settings, name)
    with kept.hold("publish", needs_remote=True, progress=progress):
        before, pointer = kept.current(), kept.pointer()
        if before is not None and before.as_of >= manifest.as_of:
            sync_targets(settings, replace(view, name=name), kept, progress)  # which a killed call has not
            return
        source = open_fetched_store(settings, view.name, manifest.version, progress=progress)
        with source.snapshot(manifest.version):  # which keeps its files
            for segment in manifest.segments:
                _link(source.layout.segment(segment.id), kept.layout.segment(segment.id))
            if manifest.filter is not None:
                _link(source.layout.filter(manifest.filter.file), kept.layout.filter(manifest.filter.file))
        contract_step("linked")
        # The files are named by the number of their version, so it stays.
        number = max(kept.next_version(), manifest.version)
        handed = replace(
            manifest,
            pipeline=name,
            store=pointer.store or new_store_id(),
            version=number,
            parent=pointer.current,
            inputs=f"version {manifest.version} of {view.name}",
        )
        verify_version(kept.layout, handed, max_age_s=VERIFY_EVERY_S)
        moved = pointer.advance(store=handed.store, current=number, last=number)
        kept.add_current(handed, moved, keep=view.publishing.keep)
        sync_targets(settings, replace(view, name=name), kept, progress)
    contract_step("handed over")


def _link(source: "os.PathLike[str]", target: "os.PathLike[str]") -> None:
    """Link a file, or the files of a folder; what is there already is complete."""
    if os.path.exists(target):
        return
    if os.path.isfile(source):
        os.link(source, target)
        return
    staged = f"{os.fspath(target)}.linked"
    remove_tree(Path(staged))
    shutil.copytree(source, staged, copy_function=os.link)
    os.rename(staged, target)


def retire_contracts(
    settings: Settings,
    users: ContractUsers,
    *,
    view: FeatureView | None = None,
    run_id: str = "",
    progress: Progress = no_progress,
) -> list[str]:
    """Remove stores and tables of kept contracts that no release needs, or whose view has the contract again.

    A definition stays as long as a release names it that can be made current again; all stay that a lost release may
    name. Killed anywhere, the next call goes on.

    Args:
        view: Only its contracts; None: those of all views.

    Returns:
        The names that are removed.
    """
    removed = []
    for name, contract in list_contracts(settings, "" if view is None else view.name):
        is_declared = view is not None and view.packed.contract == contract
        may_be_alive = (name, contract) in users.alive or bool(users.needed_lost)
        if may_be_alive and not (is_declared and _is_served(settings, name, contract)):
            continue
        kept = kept_name(name, contract)
        if _remove_kept(settings, kept, run_id, progress):
            removed.append(kept)
        if (name, contract) not in users.retained and not is_declared and not users.lost:
            begin_work(f"removing the definition of {kept}")
            remove_definition(settings, name, contract)
            contract_step("definition removed")
    return removed


def _is_served(settings: Settings, view: str, contract: str) -> bool:
    return any(each.contract == contract for each in list_served_manifests(settings, [view]))


def _remove_kept(settings: Settings, name: str, run_id: str, progress: Progress) -> bool:
    """Remove store and tables of a kept contract; returns whether there were any. A second process waits."""
    tables = [TILES + name, FEATURES + name]
    if not has_store(settings, name) and not any(_has_files(settings, table) for table in tables):
        return False
    with hold_table_lock(settings, FEATURES + name, run_id, progress):
        remove_store(settings, name)
        contract_step("store removed")
        remove_kept_tables(settings, [table for table in tables if _has_files(settings, table)], run_id)
    return True


def _has_files(settings: Settings, table: str) -> bool:
    """Return whether a table has files; a killed removal leaves some without a log."""
    return bool(open_lake(settings, below=table).names())


def remove_kept_tables(settings: Settings, tables: Sequence[str], run_id: str) -> None:
    """Remove tables of a kept contract, after the stages that wrote them are recorded as gone."""
    if tables:
        _forget_stages(settings, {*tables, *(table.partition("_")[2] for table in tables)}, run_id)
        for table in tables:
            remove_table(settings, table)
        contract_step("tables removed")


def _forget_stages(settings: Settings, subjects: set[str], run_id: str) -> None:
    """Record that what stages wrote is gone: the numbers of versions of a new table begin again."""
    last = {(row.stage, row.subject, row.as_of): row for row in ledger_records(settings) if row.subject in subjects}
    append_records(
        settings,
        [
            StageRecord(stage, subject, night, REMOVED, "", -1, 0, 0.0, run_id=run_id)
            for (stage, subject, night), row in last.items()
            if row.inputs != REMOVED
        ],
    )
