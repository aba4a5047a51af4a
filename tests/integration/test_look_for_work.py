"""Looking for work before a run: its verdict is that of the run, whatever has changed, and it writes nothing."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shelf_project
from deltalake import write_deltalake
from joined_sample import START, land_all
from offered_sample import NIGHT, land_offers, shown, visits
from shelf_lake import landing_of
from shelf_project.pipelines.shelf import PURCHASES
from store_services import minio_server
from till_project.pipelines.till import till

from forecache.base.errors import ForecacheError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import WorkNeeded, begin_work, is_looking, only_look, rollback_step
from forecache.declare.loading import read_project
from forecache.kit.delta.tables import open_table
from forecache.lake.quality.pending_files import ProcessRun
from forecache.models.registry.model_versions import champion
from forecache.operations.rollback import roll_back_model
from forecache.plugins.challengers.shadow import name_challenger
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.follow_lake import Unsent, _write_unsent
from forecache.runs import ProcessExecutor, RunRequest, look_for_work, run_jobs
from forecache.serve.store import open_store

SUPPORT = Path(__file__).parent.parent / "support"
DAYS = [date(2026, 1, day) for day in range(1, 7)]
Change = Callable[[Settings], object]


@pytest.fixture(autouse=True)
def projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))


def files_of(settings: Settings, below: str = "") -> dict[str, tuple[int, int]]:
    """Sizes and times of all files of the home but those of locks, which hold who had them."""
    paths = (path for path in (settings.home_path / below).rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def run(settings: Settings, request: RunRequest) -> list[StageResult] | None:
    """The stages of a run; None if it failed."""
    process = ProcessRun(settings)
    try:
        run_jobs(settings, request, lambda: nullcontext(ProcessExecutor(process)))
    except ForecacheError:
        return None
    return process.results


def compare(settings: Settings, request: RunRequest) -> bool:
    """Look, and then run: they agree on whether there is work, and if there is none, on every line; returns which."""
    before = files_of(settings)
    looked = look_for_work(settings, request)
    assert files_of(settings) == before
    done = run(settings, request)
    # A challenger's table is written by a stage that says of the champion's that it was current.
    has_written = files_of(settings, "lake") != {p: v for p, v in before.items() if "/lake/" in p}
    has_work = done is None or has_written or not all(result.skipped for result in done)
    assert (looked is None) == has_work, (looked, done)
    if looked is not None:
        assert done is not None
        assert [_line(result) for result in looked] == [_line(result) for result in done]
    return has_work


def _line(result: StageResult) -> StageResult:
    return dataclasses.replace(result, seconds=0.0)


def follow(settings: Settings, request: RunRequest, changes: dict[str, Change]) -> None:
    """After each change the look says what the run does, and there is work; after the run there is none."""
    assert compare(settings, request)
    assert not compare(settings, request)
    for name, change in changes.items():
        change(settings)
        assert compare(settings, request), name
        assert not compare(settings, request), name


def land(settings: Settings, day: date, *amounts: str, part: str = "") -> None:
    folder = Path(settings.landing_uri) / "sales"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"c{number:02},{day},{amount}" for number, amount in enumerate(amounts)]
    (folder / f"{day}{part}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")


def test_whatever_would_write_stops_a_look_also_where_its_error_is_swallowed() -> None:
    begin_work("anything")
    with only_look() as has_work:
        assert is_looking()
        assert not has_work()
        with pytest.raises(WorkNeeded):
            begin_work("anything")
        assert has_work()
    assert not is_looking()
    assert not issubclass(WorkNeeded, Exception)


def train(settings: Settings, night: date) -> None:
    assert run(settings, RunRequest(["till"], nights=(night, night), job="training")) is not None
    assert champion(settings, till).tags["as_of"] == str(night)


def drop(settings: Settings, name: str) -> None:
    shutil.rmtree(open_store(settings, name).layout.root)


def rewrite_predictions(settings: Settings) -> None:
    """The same rows in other data files."""
    table = open_table(settings, till.prediction_table)
    rows = pa.table(table.to_pyarrow_table())
    night = f"as_of = '{DAYS[-1]}'"
    write_deltalake(table, rows.filter(pc.equal(rows["as_of"], DAYS[-1])), mode="overwrite", predicate=night)


def damage_store(settings: Settings) -> None:
    store = open_store(settings, "till")
    current = store.current()
    assert current is not None
    [file] = store.layout.segment(current.segments[-1].id).glob("*.mdb")
    os.truncate(file, file.stat().st_size - 1)


def interrupt_rollback(settings: Settings) -> None:
    def die(step: str) -> None:
        if step == "begun":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rollback_step, "on_step", die)
        with pytest.raises(KeyboardInterrupt):
            roll_back_model(settings, till, actor="test")


TILL: dict[str, Change] = {
    "a late file": lambda settings: land(settings, DAYS[2], "50", "60", part=".2"),
    "a late file without rows": lambda settings: land(settings, DAYS[1], part=".3"),
    "predictions that are gone": lambda settings: open_table(settings, till.prediction_table).delete(),
    "predictions in other files": rewrite_predictions,
    "a store that is gone": lambda settings: drop(settings, "till"),
    "a damaged store": damage_store,
    "a new champion": lambda settings: train(settings, DAYS[5]),
    "an interrupted rollback": interrupt_rollback,
}


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_a_trained_pipeline_is_looked_at_as_it_is_run(tmp_path: Path) -> None:
    from jobs.runner import run as run_by_dagster

    settings = load_settings(home=tmp_path / "home", project="till_project", spark_master="local[2]")
    for number, day in enumerate(DAYS):
        land(settings, day, *(str(customer + number % 2) for customer in range(40)))
    newest = RunRequest(["till"])
    assert compare(settings, newest)  # without a champion it fails
    train(settings, DAYS[4])
    assert compare(settings, newest)
    assert not compare(settings, newest)
    for name, change in TILL.items():
        change(settings)
        assert compare(settings, newest), name
        assert not compare(settings, newest), name
    for nights in ((DAYS[3], DAYS[3]), (DAYS[3], DAYS[5])):
        follow(settings, RunRequest(["till"], nights=nights), {})
    assert look_for_work(settings, RunRequest(["till"], rebuild=True)) is None
    assert look_for_work(settings, RunRequest(["till"], job="training")) is None
    assert compare(settings, RunRequest(sources=["sales"], job="ingest")) is False
    # A segment that was not verified for a day is verified by a run, which then has nothing else to do.
    for folder in open_store(settings, "till").layout.segments.iterdir():
        os.utime(folder, (0, 0))
    assert look_for_work(settings, newest) is None
    done = run(settings, newest)
    assert done is not None
    assert all(result.skipped for result in done)
    # Dagster prints the same lines.
    looked = look_for_work(settings, newest)
    assert looked is not None
    by_dagster = run_by_dagster(settings, pipelines=["till"])
    assert [_line(result) for result in looked] == [_line(result) for result in by_dagster]


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_a_challenger_is_looked_at_with_its_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=tmp_path / "home", project="till_project", spark_master="local[2]")
    for number, day in enumerate(DAYS):
        land(settings, day, *(str(customer + number % 2) for customer in range(40)))
    for night in (DAYS[4], DAYS[5]):
        assert run(settings, RunRequest(["till"], nights=(night, night), job="training")) is not None
    declared = read_project(settings).pipelines["till"]  # another object if modules were unloaded since the import
    monkeypatch.setitem(vars(declared), "shadow", True)
    newest, [other] = RunRequest(["till"]), {1, 2} - {champion(settings, till).version}
    assert compare(settings, newest)
    name_challenger(settings, till, other)
    assert compare(settings, newest)
    assert not compare(settings, newest)


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_views_are_looked_at_as_they_are_run(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="published_project", spark_master="local[2]")
    land_all(settings)
    nights = (START + timedelta(days=1), START + timedelta(days=1))
    follow(settings, RunRequest(["takings"], nights=nights), {"a store that is gone": lambda each: drop(each, "shop")})
    follow(settings, RunRequest(["takings", "visitors"], nights=nights), {})


@pytest.mark.slow
def test_a_recommender_is_looked_at_as_it_is_run(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="shelf_project")
    shelf_project.land(landing_of(settings))
    text = f"customer,article,shelf,quantity,day\nc001,tools-01,tools,1,{shelf_project.LAST}\n"
    late = landing_of(settings) / PURCHASES.name / f"{shelf_project.LAST}.2.csv"
    changes: dict[str, Change] = {
        "a late file": lambda _: late.write_text(text),
        "a store that is gone": lambda settings: drop(settings, "offers_items"),
    }
    follow(settings, RunRequest(["offers"]), changes)


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_a_real_time_model_is_looked_at_as_it_is_run(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="offered_project", spark_master="local[2]")
    land_offers(settings, visits(), shown(per_day=150))
    releases = open_releases(settings, "offers")

    def drop_release(settings: Settings) -> None:
        shutil.rmtree(releases.release(1))
        shutil.rmtree(Path(settings.lake_uri) / ".realtime" / "offers" / "releases")

    request = RunRequest(["offers"], nights=(NIGHT, NIGHT))
    follow(settings, request, {"a release that is gone": drop_release})
    # What a run brings here or to others without a stage of its own.
    for path in (releases.pointer, releases.pointer_copy):
        path.unlink()
    assert look_for_work(settings, request) is None
    assert run(settings, request) is not None
    assert not compare(settings, request)
    _write_unsent(releases, Unsent())
    assert look_for_work(settings, request) is None
    assert run(settings, request) is not None
    assert not compare(settings, request)


@pytest.mark.slow
def test_two_machines_of_one_bucket_find_nothing_to_do_and_then_what_the_other_has_left(tmp_path: Path) -> None:
    with minio_server(tmp_path / "minio", "cloud") as options:
        places = {"lake": "s3://cloud/lake", "store_remote": "s3://cloud/store", "storage_options": options}
        first, second = (
            load_settings(home=tmp_path / name, project="shelf_project", landing=str(tmp_path / "landing"), **places)
            for name in ("first", "second")
        )
        shelf_project.land(tmp_path / "landing")
        request, bucket = RunRequest(["offers"]), tmp_path / "minio" / "data" / "cloud"

        def objects() -> dict[str, int]:
            return {str(path): path.stat().st_mtime_ns for path in bucket.rglob("*") if path.is_file()}

        def look(settings: Settings) -> bool:
            before = (files_of(settings), objects())
            looked = look_for_work(settings, request)
            assert (files_of(settings), objects()) == before
            return looked is None

        assert look(first)
        assert run(first, request) is not None
        assert not look(first)
        # An empty disk has to know the versions before it can tell that they are current.
        assert look(second)
        done = run(second, request)
        assert done is not None
        assert all(result.skipped for result in done)
        assert not look(second)
        late = f"customer,article,shelf,quantity,day\nc001,tools-01,tools,1,{shelf_project.LAST}\n"
        (tmp_path / "landing" / PURCHASES.name / f"{shelf_project.LAST}.2.csv").write_text(late)
        assert look(first)
        assert look(second)
        assert run(second, request) is not None
        assert not look(second)
        assert look(first)  # its copy of the store is older
        done = run(first, request)
        assert done is not None
        assert all(result.skipped for result in done)
        assert not look(first)
