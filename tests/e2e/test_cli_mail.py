"""A mailing from landed addresses to an SMTP server, by the command and by Dagster's job."""

import json
from pathlib import Path

import pytest
import shelf_project
from letters import accepted, contacts, smtp_server
from shelf_lake import landing_of

from forecache.base.settings import load_settings
from forecache.cli.main import main
from jobs.definitions import build_definitions

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_messages_are_tried_sent_and_repeated_by_the_job_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    settings = load_settings()
    shelf_project.land(landing_of(settings))
    folder = landing_of(settings) / "contacts"
    folder.mkdir()
    day = shelf_project.LAST
    lines = [f"{r['customer']},{r['address']},{str(r['customer'] == 'c007').lower()},Ann,{day}" for r in contacts(30)]
    (folder / f"{day}.csv").write_text("\n".join(["customer,address,opted_out,first_name,day", *lines]) + "\n")

    assert main(["mail", "letters"]) == 3
    assert "Nothing is published for offers. `forecache run offers` makes and publishes it." in capsys.readouterr().err
    assert main(["run", "offers"]) == 0
    assert main(["mail", "nobody"]) == 3
    assert "There is no mailing 'nobody'. Those in shelf_project: letters." in capsys.readouterr().err
    assert main(["mail", "letters", "--out", str(tmp_path)]) == 2
    capsys.readouterr()
    assert main(["mail", "letters", "--dry-run", "--limit", "3", "--out", str(tmp_path / "out")]) == 0
    assert "3 messages of letters are in" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.eml"))) == 3
    assert main(["mail", "letters"]) == 2
    assert "No SMTP server is set. Set FORECACHE_SMTP_HOST" in capsys.readouterr().err

    with smtp_server(tmp_path / "record") as port:
        monkeypatch.setenv("FORECACHE_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("FORECACHE_SMTP_PORT", str(port))
        monkeypatch.setenv("FORECACHE_SMTP_SECURITY", "none")
        assert main(["mail", "letters", "--limit", "9", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 9
        done = build_definitions(load_settings()).resolve_job_def("letters_mail").execute_in_process()
        assert done.success
        [event] = done.get_asset_materialization_events()
        assert event.materialization.metadata["dagster/row_count"].value == 20
        assert main(["mail", "letters"]) == 0
        assert "accepted 0 messages of letters" in capsys.readouterr().out
    users = [message["X-Envelope-To"].partition("@")[0] for message in accepted(tmp_path / "record")]
    assert sorted(users) == [row["customer"] for row in contacts(30) if row["customer"] != "c007"]
