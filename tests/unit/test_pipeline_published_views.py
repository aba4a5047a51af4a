"""Published views in a project: found, with names and as-of dates of their own that fit those of what uses them."""

import dataclasses
import sys
from pathlib import Path

import joined_sample
import pytest

from forecache.base.errors import InputError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Publish, Schedule
from forecache.declare.loading import load_nightly, load_pipeline, read_project

HEAD = """
import dataclasses
import joined_sample
from forecache.declare import Publish, Schedule
shop = dataclasses.replace(joined_sample.SHOP, publish=Publish(){view})
takings = dataclasses.replace(joined_sample.WITH_REGION, features=(shop, joined_sample.REGION){pipeline})
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Settings:
    view, pipeline = getattr(request, "param", ("", ""))
    folder = tmp_path / "some_project" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "all.py").write_text(HEAD.format(view=view, pipeline=pipeline))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("some_project")]:
        monkeypatch.delitem(sys.modules, name)
    return load_settings(home=tmp_path, project="some_project")


def test_a_published_view_is_found_and_has_a_run(project: Settings) -> None:
    found = read_project(project)
    assert (list(found.views), list(found.nightly), found.broken) == (["shop"], ["takings"], {})
    assert set(found.publishable) == {"shop", "takings"}
    assert load_nightly(project, "shop") is found.views["shop"]
    with pytest.raises(InputError, match="'shop' is a feature view: it has no model"):
        load_pipeline(project, "shop")


@pytest.mark.parametrize(
    ("project", "words"),
    [
        ((", name='takings'", ""), "Two pipelines or published views are named 'takings'"),
        (("", ", schedule=Schedule(every='week')"), "Pipeline 'takings' uses the published feature view 'shop', and"),
    ],
    indirect=["project"],
)
def test_a_published_view_that_does_not_fit_is_refused(project: Settings, words: str) -> None:
    [error] = read_project(project).broken.values()
    assert words in str(error)


@pytest.mark.parametrize(
    "project", [(", schedule=Schedule(every='week')", ", schedule=Schedule(every='week')")], indirect=True
)
def test_a_view_of_weekly_dates_is_declared_so(project: Settings) -> None:
    found = read_project(project)
    assert found.broken == {}
    assert found.views["shop"].schedule.max_age_h > 100


def test_a_schedule_without_publish_is_refused() -> None:
    with pytest.raises(SettingsError, match="declare `publish`, too"):
        dataclasses.replace(joined_sample.SHOP, schedule=Schedule(every="week"))
    with pytest.raises(SettingsError, match="max_age_h"):
        dataclasses.replace(joined_sample.SHOP, publish=Publish(max_age_h=1.0), schedule=Schedule(every="week"))


def test_the_contract_follows_what_the_numbers_mean_and_nothing_else() -> None:
    view = dataclasses.replace(joined_sample.SHOP, publish=Publish())
    same = dataclasses.replace(view, description="x", owner="y@example.com", publish=Publish(keep=9))
    longer = dataclasses.replace(view, windows=(dataclasses.replace(view.windows[0], days=3),))
    assert view.packed.contract == same.packed.contract
    assert view.packed.contract != longer.packed.contract
