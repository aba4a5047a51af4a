"""The real Triton client asks real-time models over the Open Inference Protocol, with binary tensors and in JSON."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ranking_code import transforms
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release

from forecache.base.settings import load_settings
from forecache.declare.realtime.request import RequestField

PYTHON = Path(__file__).parents[2] / ".tools" / "triton" / "bin" / "python"

CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
out = {}

def tensor(name, datatype, values, binary=True):
    array = np.array(values, dtype=object if datatype == "BYTES" else triton_to_np[datatype])
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found

triton_to_np = {"INT64": np.int64, "INT32": np.int32, "UINT64": np.uint64, "FP64": np.float64, "FP32": np.float32,
                "BOOL": bool}

def ask(name, model, inputs, **more):
    try:
        result = client.infer(model, inputs, **more)
    except InferenceServerException as error:
        out[name] = {"error": error.message(), "status": error.status()}
        return
    arrays = {each["name"]: result.as_numpy(each["name"]) for each in result.get_response()["outputs"]}
    out[name] = {"response": result.get_response(),
                 **{key: [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
                    for key, values in arrays.items()}}

def ranking(binary=True, household=1):
    return [tensor("household_id", "INT64", [household], binary), tensor("store_id", "INT32", [3], binary),
            tensor("product_id", "BYTES", ["a", "b", "c"], binary), tensor("price", "FP64", [2.5, 2.5, 2.5], binary)]

out["live"], out["ready"] = client.is_server_live(), client.is_server_ready()
out["models"] = [client.is_model_ready("ranking"), client.is_model_ready("ranking", "1"),
                 client.is_model_ready("ranking", "2"), client.is_model_ready("nothing")]
out["server"], out["metadata"] = client.get_server_metadata(), client.get_model_metadata("fraud")
ask("binary", "ranking", ranking(), request_id="q7")
ask("json", "ranking", ranking(binary=False),
    outputs=[triton.InferRequestedOutput("score", binary_data=False), triton.InferRequestedOutput("answered_by")])
ask("version", "ranking", ranking(), model_version="1")
ask("matrix", "ranking", [tensor("household_id", "INT64", [[1]]), tensor("store_id", "INT64", [[3]]),
    tensor("product_id", "BYTES", [["a"], ["b"], ["c"]]), tensor("price", "FP32", [[2.5]] * 3)])
ask("rows", "fraud", [tensor("household_id", "INT64", [1, 2, 77]), tensor("amount", "FP64", [1.5, 2.5, -0.0])])
ask("no time", "ranking", ranking(), timeout=1)
ask("no such version", "ranking", ranking(), model_version="2")
ask("no such model", "nothing", ranking())
ask("no such output", "ranking", ranking(), outputs=[triton.InferRequestedOutput("chance")])
ask("missing", "ranking", ranking()[:2])
ask("unknown field", "ranking", [*ranking(), tensor("colour", "BYTES", ["red"])])
ask("wrong type", "ranking", [tensor("household_id", "FP64", [1.0]), *ranking()[1:]])
ask("too big", "ranking", [tensor("household_id", "UINT64", [2**63]), *ranking()[1:]])
ask("two requests", "ranking", [tensor("household_id", "INT64", [1, 2, 1]), *ranking()[1:]])
ask("uneven", "ranking", [*ranking()[:3], tensor("price", "FP64", [1.0])])
ask("too many", "ranking", [*ranking()[:2], tensor("product_id", "BYTES", ["a"] * 201)])
ask("not finite", "ranking", [*ranking()[:3], tensor("price", "FP64", [float("nan"), 1.0, 1.0])])
ask("none", "ranking", [*ranking()[:2], tensor("product_id", "BYTES", []), tensor("price", "FP64", [])])
ask("compressed", "ranking", ranking(), request_compression_algorithm="gzip")
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    make_release(
        settings, name="fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        lookups=(HOUSEHOLD,), request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
        warmup=[b'{"household_id": 1, "amount": 2.5}'], deadline_ms=60_000.0,
    )  # fmt: skip
    with running_reader(settings) as running:
        yield running


@pytest.fixture(scope="module")
def said(reader: RunningReader, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not PYTHON.exists():
        pytest.fail("The Triton client is not installed: bash scripts/install_test_services.sh triton")
    ran = subprocess.run(
        [str(PYTHON), "-c", CLIENT, reader.url.removeprefix("http://")],
        cwd=tmp_path_factory.mktemp("client"), capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


@pytest.fixture(scope="module")
def own(reader: RunningReader) -> dict[str, float]:
    """The scores of the same request in the reader's own JSON."""
    answer = httpx.post(f"{reader.url}/v1/ranking", content=a_request()).json()
    return {item["product_id"]: item["score"] for item in answer["items"]}


def as_float32(scores: list[float]) -> list[str]:
    return [f"{score:.7g}" for score in scores]


def test_health_and_metadata(said: dict[str, Any]) -> None:
    assert (said["live"], said["ready"]) == (True, True)
    assert said["models"] == [True, True, False, False]
    assert said["server"]["extensions"] == ["binary_tensor_data"]
    assert said["metadata"]["versions"] == ["1"]
    assert [(each["name"], each["datatype"], each["shape"]) for each in said["metadata"]["inputs"]] == [
        ("household_id", "INT64", [-1]), ("amount", "FP64", [-1]),
    ]  # fmt: skip
    assert [each["name"] for each in said["metadata"]["outputs"]] == ["score", "answered_by"]


@pytest.mark.parametrize("way", ["binary", "json", "version", "matrix"])
def test_scores_come_in_the_order_of_the_inputs(said: dict[str, Any], own: dict[str, float], way: str) -> None:
    assert as_float32(said[way]["score"]) == as_float32([own["a"], own["b"], own["c"]])
    assert said[way]["answered_by"] == ["model"] * 3
    assert said[way]["response"]["model_version"] == "1"


def test_an_answer_says_its_ranks_and_where_it_comes_from(said: dict[str, Any]) -> None:
    answer = said["binary"]
    assert answer["rank"] == [2, 0, 1]
    assert answer["response"]["id"] == "q7"
    parameters = answer["response"]["parameters"]
    assert (parameters["answered_by"], parameters["release"], parameters["model"]) == ("model", 1, "ranking/1")
    assert parameters["stores.household.version"] == 1
    assert parameters["timings_ms.total"] < parameters["deadline_ms"] == 60_000
    stages = [
        parameters[f"timings_ms.{stage}"] for stage in ("wait", "parse", "lookup", "transform", "model", "fallbacks")
    ]
    assert min(stages[1:5]) > 0, "the model answered"
    assert sum(stages) < parameters["timings_ms.total"]


def test_rows_of_a_model_without_candidates_are_requests_of_their_own(
    said: dict[str, Any], reader: RunningReader
) -> None:
    bodies = [
        {"household_id": 1, "amount": 1.5},
        {"household_id": 2, "amount": 2.5},
        {"household_id": 77, "amount": -0.0},
    ]
    own = [httpx.post(f"{reader.url}/v1/fraud", json=body).json()["value"]["score"] for body in bodies]
    assert as_float32(said["rows"]["score"]) == as_float32(own)


def test_a_timeout_in_microseconds_is_a_deadline(said: dict[str, Any]) -> None:
    answer = said["no time"]
    assert answer["answered_by"] == ["order_given"] * 3
    assert answer["rank"] == [0, 1, 2]
    assert answer["response"]["parameters"]["fallback_reason"] == "deadline"
    assert [score != score for score in answer["score"]] == [True] * 3


@pytest.mark.parametrize(
    ("way", "status", "message"),
    [
        ("no such version", "404", "Release '2' of ranking is not served; 1 is."),
        ("no such model", "404", "There is no pipeline or real-time model 'nothing'; GET /v1 lists what is served."),
        ("no such output", "400", "There is no output 'chance'; ranking has score, rank, answered_by."),
        ("missing", "400", "The request field 'product_id' is missing; it names the candidates."),
        (
            "unknown field",
            "400",
            "The request has the unknown field 'colour'; it takes household_id, price, product_id, store_id.",
        ),
        ("wrong type", "400", "The request field 'household_id' is 1.0. It must be a whole number"),
        ("too big", "400", "The request field 'household_id' is 9223372036854775808. It must be a whole number"),
        ("two requests", "400", "The field 'household_id' is '1' in one row and '2' in another; candidates of"),
        ("uneven", "400", "The field 'price' has 1 values, and others 3."),
        ("too many", "422", "The request has 201 candidates; the most is 200."),
        ("not finite", "400", "The request field 'price' has a number that is not finite; send finite numbers."),
        ("compressed", "415", "The body is compressed; send it as it is."),
    ],
)
def test_what_is_wrong_is_an_error_of_the_protocol(said: dict[str, Any], way: str, status: str, message: str) -> None:
    assert said[way]["status"] == status
    assert said[way]["error"].startswith(message)


def test_a_request_without_candidates_has_an_empty_answer(said: dict[str, Any]) -> None:
    assert (said["none"]["score"], said["none"]["answered_by"]) == ([], [])


def one_input(**members: object) -> bytes:
    described = {"name": "price", "datatype": "FP64", "shape": [1], "data": [1.0], **members}
    return json.dumps({"inputs": [described]}).encode()


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"{", {}, "The body is not JSON"),
        (b"[]", {}, "The body is an array; send an object."),
        (one_input(datatype="FP9"), {}, "The input 'price' has the datatype 'FP9'"),
        (one_input(datatype=None), {}, "The input 'price' has the datatype 'None'"),
        (one_input(shape=[-1]), {}, "The input 'price' has the shape '[-1]'"),
        (one_input(shape=[2]), {}, "The input 'price' has 1 elements"),
        (one_input(shape=[0]), {}, "The input 'price' has 1 elements"),
        (one_input(data=None), {}, "The input 'price' has no array `data`"),
        (one_input(data=[True]), {}, "The input 'price' is FP64, and has true or false among its data."),
        (one_input(data=[None]), {}, "The input 'price' is FP64, and has null among its data."),
        (one_input(datatype="INT8", data=[300]), {}, "The input 'price' has a number that INT8 does not hold."),
        (one_input(parameters={"shared_memory_region": "x"}), {}, "The input 'price' is in shared memory"),
        (one_input(parameters={"binary_data_size": 8}), {}, "The input 'price' has binary_data_size '8', and 0 bytes"),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "99"}, "inference-header-content-length is '99'"),
        (b'{"inputs": []}1', {"Inference-Header-Content-Length": "14"}, "1 bytes follow the tensors"),
        (b'{"inputs": [], "parameters": {"timeout": "soon"}}', {}, "The parameter `timeout` is 'soon'"),
    ],
)
def test_a_malformed_body_is_refused_with_what_is_wrong(
    reader: RunningReader, body: bytes, headers: dict[str, str], message: str
) -> None:
    answer = httpx.post(f"{reader.url}/v2/models/ranking/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].startswith(message)


def test_methods_paths_and_the_trace_are_those_of_the_protocol(reader: RunningReader) -> None:
    assert httpx.get(f"{reader.url}/v2/models/ranking/infer").status_code == 405
    assert httpx.post(f"{reader.url}/v2/models/ranking").status_code == 405
    assert httpx.get(f"{reader.url}/v2/repository").json() == {"error": "There is nothing at '/v2/repository'."}
    assert httpx.get(f"{reader.url}/v2/models/Not-A-Name/ready").status_code == 404
    inputs = [
        {"name": "household_id", "datatype": "INT64", "shape": [1], "data": [1]},
        {"name": "product_id", "datatype": "BYTES", "shape": [1, 2], "data": [["a", "b"]]},
    ]
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = httpx.post(
        f"{reader.url}/v2/models/ranking/infer", json={"inputs": inputs}, headers={"traceparent": trace}
    )
    assert answer.json()["outputs"][0]["shape"] == [2]
    assert answer.headers["traceparent"][:36] == trace[:36]
    assert answer.headers["traceparent"] != trace
