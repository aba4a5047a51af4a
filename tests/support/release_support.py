"""Releases made in milliseconds, without Spark, MLflow or a project: for tests of what answers requests."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
from ranking_code import transforms

from forecache.base.settings import Settings
from forecache.declare.realtime.lookups import DeclaredFallback, Default, OrderGiven
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.models.inference.runtimes import function
from forecache.operations.prove_release import pack_code
from forecache.realtime.release.folder import lock_releases, open_releases, read_release
from forecache.realtime.release.follow_lake import change_state, write_next_release
from forecache.realtime.release.format import LookupContract, Release, ReleasedModel
from forecache.realtime.release.lake_state import ReleaseState, make_current

FEATURES = ("spend", "popularity", "log_price", "known")
REQUEST = (RequestField("household_id", "bigint"), RequestField("store_id", "bigint", default=0))
CANDIDATES = Candidates((RequestField("product_id", "string"), RequestField("price", "double", default=1.0)))
HOUSEHOLD = LookupContract("household", "household", ("household_id",), ("spend_28d", "visits_28d"), "contract-h")
PRODUCT = LookupContract("product", "product", ("product_id",), ("popularity",), "contract-p")
Runtime = Literal["onnx", "lightgbm", "function"]


@cache
def onnx_network(width: int, hidden: tuple[int, ...] = (8,), seed: int = 7) -> bytes:
    """A network with these layers, `features` float32 [n, width] -> `score` float32 [n, 1]; NaN counts as 0."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator, nodes, weights = np.random.default_rng(seed), [], []
    nodes += [
        helper.make_node("IsNaN", ["features"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "features"], ["layer0"]),
    ]
    weights.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    sizes = [width, *hidden, 1]
    for i, (above, below) in enumerate(zip(sizes, sizes[1:], strict=False)):
        matrix = generator.normal(0, above**-0.5, (above, below)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{i}"),
            numpy_helper.from_array(np.zeros(below, np.float32), f"b{i}"),
        ]
        last = i == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [f"layer{i}", f"w{i}", f"b{i}"], ["score" if last else f"sum{i}"]))
        nodes += [] if last else [helper.make_node("Relu", [f"sum{i}"], [f"layer{i + 1}"])]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@cache
def lightgbm_trees(width: int, trees: int = 10, leaves: int = 7, seed: int = 7) -> bytes:
    """A Booster over float32 [n, width]."""
    import lightgbm

    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(2000, width)).astype(np.float32)
    label = rows[:, 0] + rows[:, 1 % width] * rows[:, 2 % width] + generator.normal(size=len(rows))
    parameters = {"objective": "regression", "num_leaves": leaves, "verbose": -1, "num_threads": 1, "seed": seed}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, label), trees).model_to_string().encode()


def released_model(runtime: Runtime, features: Sequence[str], payload: bytes, *, version: int = 1) -> ReleasedModel:
    """A model as a release names it; its checksum is the version's, as nothing here looks at it."""
    options: dict[str, Any] = {}
    if runtime == "onnx":
        options = {"feeds": [["features", "float32", 2]], "fetches": ["score"]}
    output = OutputColumn("score", "float" if runtime == "onnx" else "double")
    spec = KernelSpec(
        runtime, f"{runtime}-{version}-{hash(payload)}", tuple(features), len(features), "float32", (output,), "scalar"
    )
    return ReleasedModel("ranking", version, f"models:/ranking/{version}", replace(spec, options=options))


def make_release(
    settings: Settings,
    *,
    name: str = "ranking",
    runtime: Runtime = "onnx",
    model: bytes | None = None,
    features: Sequence[str] = FEATURES,
    transform: Callable[..., Any] = transforms.rank,
    request: tuple[RequestField, ...] = REQUEST,
    candidates: Candidates | None = CANDIDATES,
    lookups: tuple[LookupContract, ...] = (HOUSEHOLD, PRODUCT),
    fallbacks: tuple[DeclaredFallback, ...] = (OrderGiven(),),
    version: int = 1,
    warmup: Sequence[bytes] = (),
    current: bool = True,
    bins: bytes | None = None,
    **declared: Any,
) -> Release:
    """Write a release of a model for `transform` and make it current; further arguments are fields of `Release`."""
    code: list[Callable[..., Any]] = [transform]
    if runtime == "function":
        code.append(transforms.two_thirds)
        payload = model or function.pack("ranking_code.transforms:two_thirds", "tests")
    else:
        make = onnx_network if runtime == "onnx" else lightgbm_trees
        payload = model or make(len(features), seed=version)
    release = Release(
        name=name,
        request=request,
        candidates=candidates,
        lookups=lookups,
        features=tuple(features),
        transform=f"{transform.__module__}:{transform.__qualname__}",
        model=released_model(runtime, features, payload, version=version),
        output="score",
        fallbacks=fallbacks if candidates else (Default(0.5),),
        deadline_ms=declared.pop("deadline_ms", 50.0),
        **declared,
    )
    folder = open_releases(settings, name)
    with lock_releases(folder, action="test"):
        number = write_next_release(
            settings, folder, release, model=payload, code=pack_code(code), warmup=warmup or [a_request()], bins=bins
        )  # fmt: skip
        if current:
            change_state(settings, folder, lambda state: make_current(state, number, name))
    return read_release(folder, number)


def move_state(settings: Settings, name: str, decide: Callable[[ReleaseState], ReleaseState]) -> ReleaseState:
    """Move the state in the lake, and the copy here."""
    folder = open_releases(settings, name)
    with lock_releases(folder, action="test"):
        return change_state(settings, folder, decide)


def a_request(household: int = 1, products: Sequence[str] = ("a", "b", "c")) -> bytes:
    """A request to what `make_release` makes."""
    candidates = [{"product_id": product, "price": 2.5} for product in products]
    return json.dumps({"household_id": household, "store_id": 3, "candidates": candidates}).encode()
