"""Whatever is sent, the reader answers with a status that its document knows, and never fails."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from list_tables import SERVED, top
from reader_support import RunningReader, churn_rows, running_reader, write_version

from forecache.base.settings import load_settings
from forecache.serve.reader import create_token
from forecache.serve.store import Field, KeyColumn, KeySchema

PIPELINES = ("churn", "visits", "numbers", "lists", "nope", "Churn", "../churn", "", "versions")
LIST_FIELDS = (Field("items", SERVED["items"]), Field("score", "double"))
LISTS = {"items": top(50), "score": 1.5}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    home = load_settings(home=tmp_path_factory.mktemp("reader"))
    score = (Field("score", "double"),)
    write_version(home.store_path, "churn", churn_rows(100))
    visit = KeySchema((KeyColumn("shop", "string"), KeyColumn("visit", "int")))
    write_version(home.store_path, "visits", {("a", 1): {"score": 1.5}}, key=visit, fields=score)
    write_version(
        home.store_path, "numbers", {7: {"score": 1.5}}, key=KeySchema((KeyColumn("id", "int"),)), fields=score
    )
    write_version(home.store_path, "lists", {"00042": LISTS}, fields=LIST_FIELDS)
    with running_reader(home) as running:
        yield running


@pytest.fixture(scope="module")
def http(reader: RunningReader) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reader.url) as client:
        yield client


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, (response.request.url, response.status_code, response.text)
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code
    elif response.content and response.headers["content-type"] == "application/json":
        response.json()


@FUZZ
@given(
    pipeline=st.sampled_from(PIPELINES),
    key=st.text(max_size=600)
    | st.from_regex(r"-?[0-9]{1,45}", fullmatch=True)
    | st.sampled_from(["00042", "a|1", "%"]),
    query=st.none()
    | st.text(max_size=40)
    | st.sampled_from(["fields=score", "fields=churn_probability,x", "fields=", "limit=10", "limit=1&fields=items"]),
    etag=st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
def test_any_key_is_answered(http: httpx.Client, pipeline: str, key: str, query: str | None, etag: str | None) -> None:
    url = f"/v1/{quote(pipeline, safe='')}/{quote(key.encode('utf-8', 'surrogatepass'), safe='')}"
    if query is not None:
        url += "?" + quote(query.encode("utf-8", "surrogatepass"), safe="=,&")
    response = http.get(url, headers={"if-none-match": etag} if etag else {})
    target(float(response.status_code == 200))
    check(response)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MANY = st.fixed_dictionaries(
    {"keys": st.lists(st.sampled_from(["00042", "a|1", "7", 7, ""]) | JSON, max_size=8)},
    optional={
        "fields": st.lists(st.sampled_from(["score", "churn_probability"]) | JSON, max_size=3),
        "limit": st.integers(1, 1000) | JSON,
        "x": JSON,
    },
)
REFERENCES = ("churn:risk_segment", "lists:items", "numbers:score", "visits:score")
FEAST = st.fixed_dictionaries(
    {"entities": st.dictionaries(st.sampled_from(["customer_id", "id", "shop", "visit"]) | st.text(max_size=5),
                                 st.lists(st.sampled_from(["00042", 7]) | JSON, max_size=3) | JSON, max_size=3)},
    optional={
        "features": st.lists(st.sampled_from(REFERENCES) | JSON, max_size=3),
        "feature_service": st.sampled_from(["churn", "nope", None]) | JSON,
        "full_feature_names": st.booleans() | JSON,
    },
)  # fmt: skip


@FUZZ
@given(path=st.sampled_from(["/v1/churn", "/v1/visits", "/v1/numbers", "/v1/lists", "/v1/nope"]), body=MANY | JSON)
def test_any_json_for_many_keys_is_answered(http: httpx.Client, path: str, body: object) -> None:
    response = http.post(path, json=body)
    target(float(response.status_code == 200))
    check(response)


@FUZZ
@given(body=FEAST | JSON)
def test_any_json_for_feast_is_answered(http: httpx.Client, body: object) -> None:
    response = http.post("/get-online-features", json=body)
    target(float(response.status_code == 200))
    check(response)


@FUZZ
@given(
    path=st.sampled_from(["/v1/churn", "/get-online-features"]),
    body=st.binary(max_size=300) | JSON.map(lambda data: json.dumps(data).encode()[:-1]),
    headers=st.fixed_dictionaries(
        {},
        optional={
            "content-type": st.sampled_from(["application/json", "text/plain", "", ";", "application/"]),
            "accept-encoding": st.sampled_from(["gzip", "gzip;q=x", ",,;", "*;q=0"]),
            "authorization": st.sampled_from(["Bearer", "Bearer x", "x"]),
        },
    ),
)
def test_any_bytes_as_a_body_are_answered(http: httpx.Client, path: str, body: bytes, headers: dict[str, str]) -> None:
    check(http.post(path, content=body, headers=headers))


@FUZZ
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "X", "get"]),
    target_=st.binary(min_size=1, max_size=60).map(lambda raw: b"/" + raw.translate(None, b" \r\n")),
    head=st.binary(max_size=60),
)
def test_any_bytes_on_the_wire_leave_the_reader_answering(
    reader: RunningReader, http: httpx.Client, method: str, target_: bytes, head: bytes
) -> None:
    request = method.encode() + b" " + target_ + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", reader.port), timeout=60) as connection:
        connection.settimeout(0.2)
        connection.sendall(request)
        try:
            answer = connection.recv(65536)
        except (TimeoutError, ConnectionResetError):
            answer = b""
    if answer:
        assert answer.startswith(b"HTTP/1.")
        assert answer.split(b" ", 2)[1] < b"500", answer[:300]
    assert http.get("/v1/churn/00042").status_code == 200


@pytest.mark.slow
def test_schemathesis_finds_nothing_that_the_openapi_document_does_not_say(tmp_path: Path) -> None:
    """With a token, so that it also finds what would answer without one.

    Left out are `positive_data_acceptance`, because which fields a pipeline has is in its manifest and not in the
    document, and `negative_data_rejection`, which takes 414 for an acceptance.
    """
    home = load_settings(home=tmp_path / "home")
    write_version(home.store_path, "churn", churn_rows(100))
    write_version(home.store_path, "lists", {"00042": LISTS}, fields=LIST_FIELDS)
    token, _ = create_token(tmp_path / "tokens.json", "schemathesis", ["*"])
    with running_reader(home, reader_tokens=str(tmp_path / "tokens.json")) as reader:
        run = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run", f"{reader.url}/openapi.json",
                "--header", f"Authorization: Bearer {token}",
                "--max-examples", "15", "--max-time", "25", "--seed", "7",
                "--continue-on-failure", "--report-dir", str(tmp_path),
                "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                "response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,"
                "missing_required_header,ignored_auth",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        said = "\n".join(line[:300] for line in run.stdout.splitlines()[-60:])
        assert run.returncode == 0, said
        assert "Tested: 11" in run.stdout, said
        answer = httpx.get(f"{reader.url}/v1/churn/00042", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200
