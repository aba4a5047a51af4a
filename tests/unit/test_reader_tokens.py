"""Tokens: what the file holds, who gets in, and that it survives rotation and concurrent changes."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from forecache.base.errors import InputError, NotFoundError, SettingsError
from forecache.kit.http.problems import Problem
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.tokens import create_token, list_tokens, load_tokens, revoke_token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "tokens.json"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refusal(access: Access, headers: dict[str, str], scope: str = "churn") -> int:
    with pytest.raises(Problem) as caught:
        access.check(headers, scope)
    assert any(name == "www-authenticate" for name, _ in caught.value.headers)
    return caught.value.kind.status


def test_the_file_holds_hashes_only_and_is_private(path: Path) -> None:
    token, record = create_token(path, "web", ["churn"])
    content = path.read_text()
    assert token not in content
    assert token.rpartition("_")[2] not in content
    assert record.sha256 in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_opens_the_pipelines_of_its_scopes_only(path: Path) -> None:
    token, _ = create_token(path, "web", ["churn"])
    access = Access(path)
    access.check(bearer(token), "churn")
    assert refusal(access, bearer(token), "spend") == 403
    assert refusal(access, bearer(token), "+metrics") == 403


def test_a_star_token_opens_everything(path: Path) -> None:
    token, _ = create_token(path, "ops", ["*"])
    access = Access(path)
    for scope in ("churn", "spend", "+metrics"):
        access.check(bearer(token), scope)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic {token}", "{token}", "Bearer {token}x", "Bearer fct_000000000000_x", "Bearer é"],
)
def test_what_is_no_valid_token_is_unauthorised(path: Path, header: str) -> None:
    token, _ = create_token(path, "web", ["*"])
    assert refusal(Access(path), {"authorization": header.format(token=token)}) == 401
    assert refusal(Access(path), {}) == 401


def test_a_token_with_the_right_id_and_another_secret_is_unauthorised(path: Path) -> None:
    token, _ = create_token(path, "web", ["*"])
    last = "A" if token[-1] != "A" else "B"
    assert refusal(Access(path), bearer(token[:-1] + last)) == 401


def test_an_expired_token_is_unauthorised(path: Path) -> None:
    token, record = create_token(path, "web", ["*"], expires_days=1)
    tokens = load_tokens(path)
    assert tokens.find(token, time.time()) == record
    assert tokens.find(token, record.expires - 1) == record
    assert tokens.find(token, record.expires) is None


def test_a_revoked_token_is_refused_after_the_reload_and_a_new_one_accepted(path: Path) -> None:
    old, record = create_token(path, "web", ["churn"])
    access = Access(path)
    access.check(bearer(old), "churn")
    new, _ = create_token(path, "web", ["churn"])
    assert revoke_token(path, record.id) == record
    assert access.reload()
    access.check(bearer(new), "churn")
    assert refusal(access, bearer(old)) == 401


@pytest.mark.parametrize("damage", ["", "{", '{"tokens": [{"id": "x"}]}', '{"tokens": 3}', "[]"])
def test_a_damaged_file_leaves_the_tokens_before_in_force(path: Path, damage: str) -> None:
    token, _ = create_token(path, "web", ["churn"])
    access = Access(path)
    path.write_text(damage)
    assert not access.reload()
    access.check(bearer(token), "churn")
    assert refusal(access, {}) == 401
    with pytest.raises(SettingsError, match=r"tokens\.json"):
        Access(path)


def test_a_file_that_is_gone_leaves_the_tokens_before_in_force(path: Path) -> None:
    token, _ = create_token(path, "web", ["churn"])
    access = Access(path)
    path.unlink()
    assert not access.reload()
    access.check(bearer(token), "churn")
    assert refusal(access, {}) == 401


def test_tokens_are_listed_in_the_order_of_creation(path: Path) -> None:
    assert list_tokens(path) == ()
    names = ["one", "two", "three"]
    for name in names:
        create_token(path, name, ["churn"])
    assert [record.name for record in list_tokens(path)] == names


def test_tokens_created_at_once_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=create_token, args=(path, f"t{i}", ["churn"])) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.id for record in list_tokens(path)}) == 8


@pytest.mark.parametrize("scopes", [[], ["Churn"], ["churn", "../x"], ["+other"], [""]])
def test_scopes_that_are_none_are_refused(path: Path, scopes: list[str]) -> None:
    with pytest.raises(InputError):
        create_token(path, "web", scopes)
    assert not path.exists()


def test_revoking_an_unknown_token_names_those_there_are(path: Path) -> None:
    _, record = create_token(path, "web", ["churn"])
    with pytest.raises(NotFoundError, match=record.id):
        revoke_token(path, "000000000000")
    assert list_tokens(path) == (record,)


def test_a_link_laid_in_the_way_of_the_temporary_file_is_not_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    victim = path.with_name("victim")
    victim.write_text("untouched")
    monkeypatch.setattr("forecache.base.files.secrets.token_hex", lambda _: "0" * 12)
    path.with_name(f".tokens.{'0' * 12}.tmp.json").symlink_to(victim)
    with pytest.raises(FileExistsError):
        create_token(path, "web", ["churn"])
    assert victim.read_text() == "untouched"


def test_a_change_is_on_disk_with_its_name_before_it_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked token that a power failure brings back would open the door again."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    create_token(path, "web", ["churn"])
    assert done == ["file", "replace", "folder"]
    assert sorted(item.name for item in path.parent.iterdir()) == [".tokens.json.lock", "tokens.json"]
