"""The OpenAPI document's file says the limits, scopes and problems that the reader's code has."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from forecache.base.settings import load_settings
from forecache.base.table_names import NAME
from forecache.kit.http.problems import CONTENT_TYPE, KINDS
from forecache.serve.reader.http.messages import MAX_FIELDS, MAX_LIMIT
from forecache.serve.reader.http.openapi import document, problem_responses
from forecache.serve.reader.tokens import METRICS


def read_document(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    return document(load_settings(home=str(tmp_path), **settings))


def operations(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        operation["operationId"]: operation
        for path in found["paths"].values()
        for method, operation in path.items()
        if method in ("get", "post")
    }


def body_of(operation: dict[str, Any]) -> dict[str, Any]:
    members: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    return members


def test_limits_and_patterns_are_those_of_the_code(tmp_path: Path) -> None:
    found = read_document(tmp_path)
    assert found["paths"]["/v1/{pipeline}"]["parameters"][0]["schema"]["pattern"] == f"^{NAME.pattern}$"
    fields, limit = operations(found)["getOne"]["parameters"]
    many = body_of(operations(found)["getMany"])
    assert fields["schema"]["maxItems"] == many["fields"]["maxItems"] == MAX_FIELDS
    assert limit["schema"]["maximum"] == many["limit"]["maximum"] == MAX_LIMIT
    assert f"`{METRICS}`" in found["components"]["securitySchemes"]["token"]["description"]


@pytest.mark.parametrize("most", [17, 1000])
def test_the_document_has_the_readers_own_limit_of_keys(most: int, tmp_path: Path) -> None:
    found = operations(read_document(tmp_path, reader_max_keys=most))
    assert body_of(found["getMany"])["keys"]["maxItems"] == most
    assert body_of(found["getOnlineFeatures"])["entities"]["additionalProperties"]["maxItems"] == most


def test_a_reader_with_tokens_asks_for_them(tmp_path: Path) -> None:
    assert read_document(tmp_path)["security"] == []
    assert read_document(tmp_path, reader_tokens="tokens.json")["security"] == [{"token": []}]


def test_each_problem_of_the_code_is_described(tmp_path: Path) -> None:
    found = read_document(tmp_path)
    assert found["components"]["schemas"]["Problem"]["properties"]["type"]["enum"] == [kind.uri for kind in KINDS]
    failures = {
        status: response
        for responses in [*(each["responses"] for each in operations(found).values()), problem_responses(504)]
        for status, response in responses.items()
        if status not in ("200", "304", "431")
    }
    assert {status: response["description"] for status, response in failures.items()} == {
        status: "; ".join(kind.title for kind in KINDS if kind.status == int(status)) for status in failures
    }
    assert {name for response in failures.values() for name in response["content"]} == {CONTENT_TYPE}


def test_nothing_refers_to_what_is_not_served(tmp_path: Path) -> None:
    found = read_document(tmp_path)
    assert set(found["components"]) == {"schemas", "securitySchemes"}

    def references(part: Any) -> set[str]:
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        own = {part["$ref"]} if isinstance(part, dict) and "$ref" in part else set()
        return own.union(*map(references, parts))

    schemas = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert references(found) == schemas


def test_each_example_is_an_answer_that_the_document_describes(tmp_path: Path) -> None:
    found = read_document(tmp_path)
    contents = {
        name: operation["responses"]["200"]["content"].get("application/json", {})
        for name, operation in operations(found).items()
    }
    examples = {name: content["example"] for name, content in contents.items() if "example" in content}
    assert set(examples) == set(contents) - {"metrics", "statusPage", "status", "openapi"}
    for name, example in examples.items():
        schema = {**contents[name]["schema"], "components": found["components"]}
        jsonschema.Draft202012Validator(schema).validate(example)
