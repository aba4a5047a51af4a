"""What a wrong input is answered: the whole sentence, which names the thing, its value and a remedy, and the code."""

import gzip
import json
import shlex
import socket
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from ranking_code import transforms
from reader_support import RunningReader, churn_rows, running_reader, write_version
from realtime_support import write_views
from release_support import HOUSEHOLD, make_release

from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.declare.realtime.request import RequestField
from forecache.kit.delta.tables import append_rows
from forecache.serve.store import Field, KeyColumn, KeySchema
from forecache.serve.store.manifest import StalePolicy

USAGE, MISSING, INPUT, CONFLICT, CHECK = 2, 3, 4, 5, 6
DECLARED = "Those in dagster_project: churn, spend."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which one as-of date of `churn` was scored and published; no model is registered."""
    folder = tmp_path_factory.mktemp("wrong")
    settings = load_settings(home=folder / "home")
    rows = pa.table({"customer_id": ["00001"], "churn_probability": [0.5], "as_of": [date(1998, 6, 30)]})
    append_rows(settings, "predictions_churn", rows, partition_by=("as_of",))
    write_version(settings.store_path, "churn", churn_rows(10), as_of="1998-06-30")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


COMMANDS = [
    ("quer", USAGE, "There is no command 'quer'. Did you mean 'query'?"),
    ("versions churn", USAGE, "There is no command 'versions'. Did you mean 'store versions'?"),
    ("store list churn", USAGE, "There is no command 'list'. `forecache store --help` lists the commands."),
    ("run churn --nights x", USAGE, "No such option '--nights'."),
    ("run chrun", MISSING, "There is no pipeline, recommender, feature view or real-time model 'chrun'. "
                           f"Did you mean 'churn'? {DECLARED}"),
    ("ingest purchasez", MISSING, "There is no pipeline, recommender, feature view, real-time model or source with "
                                  "landing files 'purchasez'. Did you mean 'purchases'? Those in dagster_project: "
                                  "churn, spend, purchases."),
    ("run churn --date 1998-02-30", USAGE, "Invalid value for '--date': '1998-02-30' is not a date. Write it like "
                                           "1998-06-30, today or yesterday."),
    ("store diff churn one 2", USAGE, "Invalid value for 'BEFORE': 'one' is not a valid integer."),
    ("serve --port 99999", USAGE, "Invalid value for '--port': 99999 is not in the range 1<=x<=65535."),
    ("serve --port PORT", CONFLICT, "Port PORT on 127.0.0.1 is in use. Stop the process that listens there, or choose "
                                    "another with --port or FORECACHE_READER_PORT."),
    ("dev --port PORT", CONFLICT, "Port PORT on 127.0.0.1 is in use. Stop the process that listens there, or give "
                                  "--port."),
    ("dagster code --port PORT", CONFLICT, "Port PORT on 127.0.0.1 is in use. Stop the process that listens there, or "
                                           "give --port."),
    ('query "drop table predictions_churn"', INPUT,
     "A query only reads the lake's tables, and the statement is DROP. Ask with SELECT. The runs of a pipeline write "
     "its tables; to change one by hand use delta-rs."),
    ('query "select * from predictionz"', INPUT,
     "The lake has no table 'predictionz'. Did you mean 'predictions_churn'? Those in the lake: predictions_churn."),
    ("publish churn --date 1998-06-29", MISSING, "The table predictions_churn has no rows for 1998-06-29. `forecache "
                                                 "run churn --date 1998-06-29` makes them."),
    ("publish churn", CHECK, "As-of date 1998-06-30 of table 'predictions_churn' was never checked. `forecache run "
                             "NAME --date 1998-06-30` checks it."),
    ("drift churn --date 1998-06-01", MISSING, "Pipeline 'churn' has no predictions for the as-of date 1998-06-01. "
                                               "`forecache run churn --date 1998-06-01` scores it."),
    ("get churn 77777", MISSING, "Version 1 of churn has no key '77777'. Its 10 keys are values of customer_id, known "
                                 "on 1998-06-30."),
    ('get churn ""', INPUT, "The key '' has 0 bytes. A key has 1 to 511 bytes."),
    ("get churn 00001 --version 9", MISSING, "The store of churn has no version 9. It has: 1."),
    ("store pin churn 9", MISSING, "The store of churn has no version 9. It has: 1."),
    ("rollback churn --to 9", MISSING, "The store of churn cannot roll back from 1 to version 9. Versions it can go "
                                       "to: none."),
    ("models diff churn 1 2", MISSING, "Model 'churn' has no version 1. It has none; `forecache train churn` makes the "
                                       "first."),
    ("models rollback churn", MISSING, "Pipeline 'churn' has no champion yet. Run `forecache train churn`: a model "
                                       "that passes the gate becomes the champion."),
    ("shadow churn", MISSING, "Pipeline 'churn' has no challenger. Name one with `forecache challenge churn VERSION`, "
                              "or give --version."),
    ("explain churn 00001 --item x", USAGE, "churn is no real-time model: --item and --date are of those. Leave them "
                                            "out."),
    ("release build serch", MISSING, "There is no real-time model 'serch'. Those in dagster_project: none."),
    ("store push churn", USAGE, "There is no remote to exchange versions with. Set FORECACHE_STORE_REMOTE or give "
                                "--remote."),
    ("store pull churn --remote FOLDER/remote", MISSING, "The remote serves nothing for churn. Those in the remote: "
                                                         "none. `forecache store push` fills it."),
    ("maintain nope", MISSING, "The lake has no table 'nope'. `forecache tables` lists those there are."),
    ("tokens revoke 3f9a0c2b71de", USAGE, "There is no token file. Set FORECACHE_READER_TOKENS, also for the reader, "
                                          "or give --file."),
    ("status --url nonsense", INPUT, "'nonsense' is no address of a reader. Write it like http://127.0.0.1:8080."),
    ("status --token-file FOLDER/none", INPUT, "The token file FOLDER/none cannot be read: No such file or directory. "
                                               "Check its path."),
    ("cost --plot FOLDER/cost.pdf", INPUT, "--plot FOLDER/cost.pdf is no picture that can be written. End it in .png "
                                           "or .svg."),
    ("init FOLDER/full", INPUT, "The folder FOLDER/full is not empty. Name a new or an empty folder."),
    ("init FOLDER/1st", INPUT, "A project's package cannot be named '1st'. Give --package with lower-case letters, "
                               "digits and _, such as --package shop."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "sentence"), COMMANDS, ids=[line for line, _, _ in COMMANDS])
def test_a_wrong_argument_is_answered_by_one_sentence(
    line: str, code: int, sentence: str, home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FORECACHE_HOME", str(home / "home"))

    def fill(text: str) -> str:
        return text.replace("PORT ", f"{taken_port} ").replace("FOLDER", str(home))

    assert main(shlex.split(fill(f"{line} "))) == code
    assert said(capsys) == fill(sentence)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on standard error, without the kind of error before it."""
    return capsys.readouterr().err.rstrip("\n").splitlines()[-1].partition(": ")[2]


SETTINGS = [
    ("READER_PORT", "abc", "Setting FORECACHE_READER_PORT has the value 'abc': Input should be a valid integer, unable "
                           "to parse string as an integer. `forecache settings` shows what each setting takes."),
    ("ENGINE", "sparkle", "Setting FORECACHE_ENGINE has the value 'sparkle': Input should be 'auto', 'spark' or "
                          "'arrow'. `forecache settings` shows what each setting takes."),
    ("STORAGE_OPTIONS", "{a", "Setting FORECACHE_STORAGE_OPTIONS is no JSON: Expecting property name enclosed in "
                              'double quotes: line 1 column 2 (char 1). Write it like {"name": "value"}; `forecache '
                              "settings` shows what each setting takes."),
    ("PRICES", '{"cpu": "dear"}', "Setting FORECACHE_PRICES has the value 'dear' for cpu: Input should be a valid "
                                  'tuple. Write two numbers for each name, such as {"cpu": [0.05, 0.02]}.'),
    ("PROJECT", "no_such", "The project module 'no_such.pipelines' cannot be imported: No module named 'no_such'. Set "
                           "FORECACHE_PROJECT to the package that has it, and run from the folder in which that "
                           "package lies, or put that folder on PYTHONPATH."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "sentence"), SETTINGS, ids=[name for name, _, _ in SETTINGS])
def test_a_wrong_setting_is_answered_by_one_sentence(
    name: str, value: str, sentence: str, home: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FORECACHE_HOME", str(home / "home"))
    monkeypatch.setenv(f"FORECACHE_{name}", value)
    assert main(["run"]) == USAGE
    assert said(capsys) == sentence


DECLARATIONS = """
from datetime import date
from forecache import Column, Feature, Features, FeatureView, Output, Pipeline, Source, SqlModel, Window

SALES = Source(
    "sales", (Column("shop", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day", start=date(2026, 1, 1), end=date(2026, 1, 8),
)
SQL = "select shop, as_of, sum(amount) as total from sales group by all"
TOTAL = Features(sql=SQL, columns=(Feature("total"),))
"""
CANNOT = "The pipeline module MODULE cannot be used: "
BROKEN = [
    ("import no_such_module", CANNOT + "ModuleNotFoundError: No module named 'no_such_module'. Mend the module."),
    ("def broken(:", CANNOT + "SyntaxError: invalid syntax (shop.py, line 11). Mend the module."),
    ("FeatureView('sums', keys=('shop',), sources=(SALES,))",
     CANNOT + "TypeError: FeatureView.__init__() got an unexpected keyword argument 'keys'. Mend the module."),
    ("FeatureView('sums', ('shp',), (SALES,), TOTAL)",
     CANNOT + "FeatureView 'sums' has the key column 'shp', which none of its sources declares. sales has shop, day, "
     "amount. Add the column, or a source without time (`Static()`) that lists its values."),
    ("FeatureView('Sums 1', ('shop',), (SALES,), TOTAL)",
     CANNOT + "The feature view name 'Sums 1' is not usable as a table name. Use lower-case letters, digits and "
     "underscores, starting with a letter, at most 63."),
    ("FeatureView('sums', ('shop',), (SALES,), Features(sql=SQL.replace('amount', 'amont'), columns=TOTAL.columns))",
     CANNOT + "FeatureView 'sums' has SQL that names the column 'amont', which is not there (line 1, column 25). "
     "Columns are shop, day, amount, event_day, as_of."),
    ("Column('shop', 'strng')",
     CANNOT + "Column 'shop' has type='strng'. It is one of 'string', 'int', 'bigint', 'double', 'date', 'timestamp', "
     "'boolean'."),
    ("Window('sums', 'median', 7, 'amount')",
     CANNOT + "Window 'sums' has aggregate='median'. It is one of 'sum', 'count', 'mean', 'min', 'max', 'last', "
     "'distinct'."),
    ("pass", "PROJECT declares nothing that could run. Declare a pipeline in PROJECT/pipelines/, or start from one "
             "with `forecache init`."),
]  # fmt: skip


def make_project(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project of one module in a home of its own; its name."""
    name = f"wrong_{abs(hash(code))}"
    pipelines = folder / name / "pipelines"
    pipelines.mkdir(parents=True)
    (pipelines / "__init__.py").touch()
    (pipelines / "shop.py").write_text(f"{DECLARATIONS}{code}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("FORECACHE_PROJECT", name)
    monkeypatch.setenv("FORECACHE_HOME", str(folder / "home"))
    return name


@pytest.mark.parametrize(("code", "sentence"), BROKEN, ids=[code for code, _ in BROKEN])
def test_a_wrong_declaration_is_answered_by_one_sentence(
    code: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make_project(tmp_path, code, monkeypatch)
    assert main(["run"]) == (MISSING if code == "pass" else USAGE)
    assert said(capsys) == sentence.replace("MODULE", f"{name}.pipelines.shop").replace("PROJECT", name)


HEADER = "shop,day,amount\n"
LANDED = {
    "2026-01-01.csv": (f"{HEADER}a,2026-01-01,1\n", ""),
    "2026-01-02.csv": ("shop,day,amont\na,2026-01-02,1\n", "the column 'amount' is missing"),
    "2026-01-03.csv": (f"{HEADER}a,2026-13-03,1\n", "day '2026-13-03' is not of type date"),
    "2026-01-04.csv": (f"{HEADER}a,2026-01-04,dear\n", "amount 'dear' is not of type double"),
    "2026-01-05.csv": (f"{HEADER}a,2026-01-05,-3\n", "amount -3 is below the minimum 0"),
    "2026-01-06.csv": (f"{HEADER}a,2026-01-06,1,7\n", "the row has 4 fields, the header 3"),
    "2026-01-07.csv": (f"{HEADER}a,2026-01-01,1\n", "day 2026-01-01 is not on the file's day 2026-01-07"),
    "2026-01-08.csv": ("", "the file is empty"),
}


def test_wrong_landing_files_go_to_quarantine_with_a_reason_each_and_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "Pipeline('sums', ('shop',), TOTAL, SqlModel('total'), (Output('score'),), sources=(SALES,))"
    make_project(tmp_path, f"sums = {model}", monkeypatch)
    landing = tmp_path / "home" / "landing" / "sales"
    landing.mkdir(parents=True)
    for name, (text, _) in LANDED.items():
        (landing / name).write_text(text)
    assert main(["ingest", "sales"]) == 0
    assert said(capsys) == (
        "5 rows and 2 whole files of sales, such as 2026-01-02.csv: the column 'amount' is missing. `forecache query "
        '"select * from quarantine_sales"` shows each with its reason.'
    )
    assert main(["query", "select source_file, reason from quarantine_sales", "--json"]) == 0
    reasons = {row["source_file"]: row["reason"] for row in json.loads(capsys.readouterr().out)}
    assert reasons == {name: reason for name, (_, reason) in LANDED.items() if reason}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("server"))
    write_version(settings.store_path, "churn", churn_rows(10), as_of="1998-06-30")
    visits = KeySchema((KeyColumn("shop", "string"), KeyColumn("visit", "int")))
    write_version(settings.store_path, "visits", {("a", 1): {"n": 1.5}}, key=visits, fields=(Field("n", "double"),))
    old = {"as_of": "1998-06-30", "policy": StalePolicy(36.0, "refuse")}
    write_version(settings.store_path, "old", churn_rows(3), **old)
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    fields = (RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0))
    make_release(
        settings, name="fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        lookups=(HOUSEHOLD,), request=fields, warmup=[b'{"household_id": 1, "amount": 2.5}'], deadline_ms=60_000.0,
    )  # fmt: skip
    with running_reader(settings, reader_max_body_bytes=65536, reader_max_keys=100) as running:
        yield running


PARTS = "Join shop, visit by '|'; write '|' and '%' inside a part as %7C and %25."
TEXT = "Write a key of several parts as text, with '|' between them."
REQUESTS: list[tuple[str, Any, int, str]] = [
    ("GET /v1/chrun/1", None, 404, "There is no pipeline or real-time model 'chrun'; GET /v1 lists what is served."),
    ("GET /v1/churn/none", None, 404, "The key 'none' is not in version 1 of churn, as of 1998-06-30."),
    ("GET /v1/visits/a", None, 400, f"The key 'a' has 1 part where 2 are needed. {PARTS}"),
    ("GET /v1/visits/a%7C1%7C2", None, 400, f"The key 'a|1|2' has 3 parts where 2 are needed. {PARTS}"),
    ("GET /v1/visits/a%7Cx", None, 400, "The key column 'visit' has the value 'x'. It takes a value of type int."),
    ("GET /v1/old/00001", None, 503, "Version 1 of old is as of 1998-06-30, older than the 36 h that its declaration "
                                     "allows; publish a newer as-of date."),
    ("GET /v1/churn/00001?fields=nope", None, 400, "churn has no field 'nope'; it serves churn_probability, "
                                                   "risk_segment."),
    ("GET /v1/churn/00001?filds=x", None, 400, "The query parameter 'filds' is unknown; there are `fields` and "
                                               "`limit`."),
    ("GET /v1/fraud/1", None, 404, "fraud is a real-time model, which has no keys to look up; send a request to POST "
                                   "/v1/fraud."),
    ("GET /nope", None, 404, "There is nothing at '/nope'; see /openapi.json."),
    ("DELETE /v1/churn/1", None, 405, "DELETE is not allowed at '/v1/churn/1'; use GET, HEAD."),
    ("POST /v1/churn", "{", 400, "The body is not JSON: unexpected end of data: line 1 column 2 (char 1)."),
    ("POST /v1/churn", [], 400, "The body is an array; send an object."),
    ("POST /v1/churn", {}, 400, "The member 'keys' is missing; it must be an array."),
    ("POST /v1/churn", {"keys": "a"}, 400, "The member 'keys' is text; it must be an array."),
    ("POST /v1/churn", {"key": ["a"]}, 400, "The body has the unknown member 'key'; it takes fields, keys, limit."),
    ("POST /v1/churn", {"keys": [None]}, 400, f"The key null is not text or an integer. {TEXT}"),
    ("POST /v1/visits", {"keys": [["a", 1]]}, 400, f'The key ["a", 1] is not text or an integer. {TEXT}'),
    ("POST /v1/churn", {"keys": ["1"] * 101}, 422, "The request asks for 101 keys; the most is 100. Split it."),
    ("POST /v1/churn", {"keys": ["1"], "limit": 0}, 400, "The limit '0' is not a whole number from 1 to 1,000; send "
                                                         "one."),
    ("POST /v1/churn", "x" * 70_000, 413, "The body is larger than 65536 bytes; split the request."),
    ("POST /v1/churn", gzip.compress(b'{"keys": ["1"]}', mtime=0), 415, "The body is compressed; send it as it is."),
    ("POST /v1/fraud", {"amount": 1}, 400, "The request field 'household_id' is missing. It must be a whole number of "
                                           "64 bits."),
    ("POST /v1/fraud", {"household_id": 1, "amount": "x"}, 400, "The request field 'amount' is 'x'. It must be a "
                                                                "number."),
    ("POST /v1/fraud", {"household_id": 1, "amont": 2}, 400, "The request has the unknown field 'amont'; it takes "
                                                             "amount, household_id, request_id."),
    ("POST /v1/ranking", {"household_id": 1}, 400, "The request field 'candidates' is missing; it must be an array."),
    ("POST /v1/ranking", {"household_id": 1, "candidates": [{"price": 1}]}, 400,
     "At place 0 of the candidates: The request field 'product_id' is missing. It must be a text."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_line", "body", "status", "sentence"),
    REQUESTS,
    ids=[f"{line} {str(body)[:40]}" for line, body, _, _ in REQUESTS],
)
def test_a_wrong_request_is_answered_by_one_sentence(
    request_line: str, body: Any, status: int, sentence: str, server: RunningReader
) -> None:
    method, path = request_line.split()
    content = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
    headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if isinstance(body, bytes) else {})
    answer = httpx.request(method, f"{server.url}{path}", content=content, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["detail"]) == (status, status, sentence)
