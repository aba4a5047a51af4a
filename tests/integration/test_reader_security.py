"""Tokens over real sockets, rotated while the reader runs."""

import socket
from pathlib import Path

import httpx
import pytest
from reader_support import churn_rows, running_reader, write_version
from waiting import eventually

from forecache.base.settings import Settings
from forecache.serve.reader import create_token, revoke_token


@pytest.fixture
def store(settings: Settings) -> Settings:
    write_version(settings.store_path, "churn", churn_rows(5))
    write_version(settings.store_path, "spend", churn_rows(5))
    return settings


def test_tokens_guard_every_route_with_data(store: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    churn, _ = create_token(path, "web", ["churn"])
    ops, _ = create_token(path, "ops", ["*"])
    scraper, _ = create_token(path, "prometheus", ["+metrics"])
    with running_reader(store, reader_tokens=str(path)) as reader, httpx.Client(base_url=reader.url) as http:

        def status(url: str, token: str = "", body: object = None) -> int:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            method = "GET" if body is None else "POST"
            return http.request(method, url, headers=headers, json=body).status_code

        feast = {"entities": {"customer_id": ["00001"]}, "features": ["churn:risk_segment", "spend:churn_probability"]}
        many = {"keys": ["00001"]}
        for url, body in (
            ("/v1", None), ("/v1/churn", None), ("/versions/churn", None), ("/v1/churn/00001", None),
            ("/v1/churn", many), ("/metrics", None), ("/get-online-features", feast), ("/v1/nope", None),
        ):  # fmt: skip
            assert status(url, "", body) == 401, url
            assert status(url, churn + "x", body) == 401, url
        for url in ("/healthz", "/readyz", "/openapi.json"):
            assert status(url) == 200
        assert [status(url, churn) for url in ("/v1/churn/00001", "/v1/churn", "/versions/churn")] == [200] * 3
        assert status("/v1/churn", churn, many) == 200
        assert [status(url, churn) for url in ("/v1/spend/00001", "/v1/nope/1", "/metrics")] == [403] * 3
        assert status("/get-online-features", churn, feast) == 403
        assert [status("/v1/spend/00001", ops), status("/get-online-features", ops, feast)] == [200, 200]
        assert [status("/metrics", scraper), status("/metrics", ops), status("/v1/churn", scraper)] == [200, 200, 403]

        headers = {"authorization": f"Bearer {churn}"}
        assert [row["pipeline"] for row in http.get("/v1", headers=headers).json()["pipelines"]] == ["churn"]
        refused = http.get("/v1/churn/00001")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert refused.json()["type"] == "urn:forecache:problem:unauthorised"


def test_tokens_are_rotated_while_the_reader_runs(store: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    old, record = create_token(path, "web", ["churn"])
    scraper, _ = create_token(path, "prometheus", ["+metrics"])
    with running_reader(store, reader_tokens=str(path)) as reader, httpx.Client(base_url=reader.url) as http:

        def status(token: str) -> int:
            return http.get("/v1/churn/00001", headers={"authorization": f"Bearer {token}"}).status_code

        assert status(old) == 200
        new, _ = create_token(path, "web", ["churn"])
        assert eventually(lambda: status(new) == 200)
        assert status(old) == 200
        revoke_token(path, record.id)
        assert eventually(lambda: status(old) == 401)
        assert status(new) == 200
        path.write_text("not a token file")

        def noticed() -> bool:
            page = http.get("/metrics", headers={"authorization": f"Bearer {scraper}"}).text
            return "forecache_reader_token_file_errors_total 1" in page

        assert eventually(noticed)
        assert (status(new), status(old), http.get("/v1/churn/00001").status_code) == (200, 401, 401)


def test_strangers_are_refused_before_their_body_is_read(store: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    create_token(path, "web", ["churn"])
    with (
        running_reader(store, reader_tokens=str(path)) as reader,
        socket.create_connection(("127.0.0.1", reader.port), timeout=60) as connection,
    ):
        connection.sendall(b"POST /v1/churn HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
