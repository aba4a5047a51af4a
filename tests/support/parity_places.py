"""A request asked in every place that answers it: the reader over each protocol, and BentoML."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from parity_asked import Asked, declared
from reader_support import RunningReader

from forecache.base.settings import Settings
from forecache.plugins.protocols.bento_model import BentoModel
from forecache.plugins.protocols.open_inference_messages import Tensor, render_response


@dataclass(frozen=True)
class World:
    settings: Settings
    reader: RunningReader
    bento: str
    chosen_in_bento: BentoModel


def in_json(asked: Asked) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asked.request, default=lambda moment: moment.isoformat()))
    return {**plain, "candidates": asked.candidates}


def by_json(http: httpx.Client, url: str, asked: Asked, model: str) -> np.ndarray:
    body = json.dumps(in_json(asked), ensure_ascii=False).encode()

    def ask() -> tuple[Any, str]:
        answer = http.post(f"{url}/v1/{model}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        return told, told.get("fallback_reason", "")

    return scores_of(by_the_model(ask), asked)


def by_the_model(ask: Callable[[], tuple[Any, str]]) -> Any:
    """What the model answers: a busy machine makes it late now and then, or has it moved to another process."""
    for _ in range(50):
        answer, why = ask()
        if not why:
            return answer
        time.sleep(0.1)
    raise AssertionError(answer)


def scores_of(answer: Mapping[str, Any], asked: Asked) -> np.ndarray:
    """The scores of a ranking in the order of the request."""
    for each in answer["items"]:
        assert each.get("answered_by", "model") == "model" or each["score"] is None, answer
    by_product = {each["product_id"]: each["score"] for each in answer["items"]}
    return np.array([by_product[each["product_id"]] for each in asked.candidates], np.float64)


def by_invocations(http: httpx.Client, world: World, asked: Asked, model: str) -> np.ndarray:
    request = in_json(asked)
    rows = [{**request, **candidate} for candidate in request.pop("candidates")]

    def ask() -> tuple[Any, str]:
        answer = http.post(f"{world.reader.url}/invocations?model={model}", json={"dataframe_records": rows})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"], answer.json().get("fallback_reason", "")

    return np.array(by_the_model(ask), np.float64)


def by_tensors(http: httpx.Client, world: World, asked: Asked, model: str) -> np.ndarray:
    """By the Open Inference Protocol with binary tensors."""
    kinds = {"bigint": ("INT64", np.int64), "double": ("FP64", np.float64), "boolean": ("BOOL", np.bool_)}
    columns = {name: [value] for name, value in asked.request.items()}
    columns |= {name: [each[name] for each in asked.candidates] for name in asked.candidates[0]}
    tensors = []
    for field in declared.all_fields:
        if field.name not in columns:
            continue
        values = columns[field.name]
        datatype, dtype = kinds.get(field.type, ("BYTES", None))
        texts = [value if isinstance(value, str) else value.isoformat() for value in values] if dtype is None else []
        tensors.append(Tensor(field.name, datatype, texts if dtype is None else np.array(values, dtype)))
    body, length = render_response({"parameters": {"binary_data_output": True}}, tensors, [True] * len(tensors))
    head = body[:length].replace(b'"outputs":', b'"inputs":', 1)

    def ask() -> tuple[Any, str]:
        answer = http.post(
            f"{world.reader.url}/v2/models/{model}/infer",
            content=head + body[length:],
            headers={"inference-header-content-length": str(len(head))},
        )
        assert answer.status_code == 200, answer.text
        start = int(answer.headers["inference-header-content-length"])
        described = json.loads(answer.content[:start])
        size = described["outputs"][0]["parameters"]["binary_data_size"]
        scores = np.frombuffer(answer.content[start : start + size], np.float64)
        return scores, described["parameters"].get("fallback_reason", "")

    found: np.ndarray = by_the_model(ask)
    return found
