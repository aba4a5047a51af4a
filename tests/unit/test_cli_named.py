"""What each command says of a name that nothing has: all that was looked for, the close one, and those there are."""

from pathlib import Path

import pytest
from release_support import make_release

from forecache.base.errors import InputError, NotFoundError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.replicas import push_releases

PUBLISHED = "There is no pipeline, recommender or feature view"
ALL = "There is no pipeline, recommender, feature view or real-time model"
MODEL = "There is no real-time model"
DECLARED = "Those in asked_project: household, product"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of `asked_project`, which has a release of the model `ranking` that the project does not declare."""
    for name, value in (("HOME", tmp_path), ("PROJECT", "asked_project"), ("STORE_REMOTE", tmp_path / "remote")):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    settings = load_settings()
    make_release(settings)
    return settings


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        *(
            (command, "producz", f"{PUBLISHED} 'producz'. Did you mean 'product'? {DECLARED}.")
            for command in ("publish NAME", "store versions NAME", "store diff NAME 1 2", "get NAME 7",
                            "store pin NAME 1", "store unpin NAME", "store unblock NAME 1")
        ),
        *(
            (command, "rankinq", f"{ALL} 'rankinq'. Did you mean 'ranking'? {DECLARED}, payments, search, ranking.")
            for command in ("store push NAME", "store push NAME --remote REMOTE", "rollback NAME", "explain NAME 7")
        ),
        ("run NAME", "serch", f"{ALL} 'serch'. Did you mean 'search'? {DECLARED}, payments, search."),
        *(
            (
                command, "serch", "There is no pipeline or real-time model 'serch'. Did you mean 'search'? Those in "
                "asked_project: payments, search.",
            )
            for command in ("models NAME", "models rollback NAME", "promote NAME 1", "train NAME")
        ),
        *(
            (
                command, "rankinq", f"{MODEL} 'rankinq'. Did you mean 'ranking'? Those in asked_project: payments, "
                "search, ranking.",
            )
            for command in ("release list NAME", "release rollouts NAME --once", "release return NAME",
                            "release bento NAME", "advise NAME", "parity NAME", "log show NAME",
                            "log commit NAME --once", "log commit search NAME --once")
        ),
        ("release build NAME", "paymentz", f"{MODEL} 'paymentz'. Did you mean 'payments'? Those in asked_project: "
                                           "payments, search."),
        ("store pull NAME", "rankinq", "The remote serves nothing for rankinq. Those in the remote: none. "
                                       "`forecache store push` fills it."),
        ("store verify NAME", "rankinq", "There is no store or release 'rankinq'. Did you mean 'ranking'? Those in "),
        ("store push NAME", "payments", "Nothing is released of payments. Run `forecache release build payments`."),
        ("rollback NAME", "payments", "Nothing is released of payments. Run `forecache release build payments`."),
        ("release bento NAME", "payments", "Nothing is released of payments. Run `forecache release build payments`."),
    ],
)  # fmt: skip
def test_an_unknown_name_is_told_with_all_that_was_looked_for(
    command: str, name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = command.replace("NAME", name).replace("REMOTE", str(tmp_path / "other")).split()
    assert main(words) == NotFoundError.exit_code
    assert f"Not found: {said}" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_log_of_a_model_that_only_the_spool_knows_is_committed(home: Settings) -> None:
    (home.request_log_path / "elsewhere").mkdir(parents=True)
    assert main(["log", "commit", "elsewhere", "--once"]) == 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["publish", "store versions", "get"])
def test_a_model_that_is_released_here_and_not_declared_is_known_as_one(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "ranking", *(["7"] if command == "get" else [])]) == InputError.exit_code
    assert "'ranking' is a real-time model: its answers are made when it is asked" in capsys.readouterr().err


def test_push_and_pull_by_name_bring_a_model_whether_it_is_declared_or_not(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(home, name="payments")
    assert main(["store", "push", "ranking", "payments"]) == 0
    remote = LocalFolder(tmp_path / "remote")
    for name in ("ranking", "payments"):
        assert push_releases(open_releases(home, name), remote)["files"] == 0  # it is there
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "replica"))
    capsys.readouterr()
    assert main(["store", "pull", "rankinq", "ranking"]) == NotFoundError.exit_code
    assert "Did you mean 'ranking'? Those in the remote: payments, ranking." in capsys.readouterr().err
    assert open_releases(load_settings(), "ranking").numbers() == [1]
