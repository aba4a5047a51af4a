"""The requests of both clients: content, reading of the response, and retries."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.kit.process.periodic import Backoff
from forecache.serve.reader.answer import answer_from, answers_from
from forecache.serve.reader.wire import (
    CallOutcome,
    Key,
    key_text,
    many_request,
    one_request,
    outcome_of,
    pipeline_path,
    realtime_answer_from,
    request_body,
    versions_path,
)


@dataclass(frozen=True)
class ClientCall:
    """A request, and how to read its response."""

    method: str
    path: str
    read: Callable[[Any], Any]
    params: dict[str, str] | None = None
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] | None = None

    @property
    def httpx_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `httpx` for this request."""
        return {"params": self.params, "json": self.json, "content": self.content, "headers": self.headers}


class ClientBase:
    """Base class of both clients: requests and retries. Every call only reads, so it is safe to repeat."""

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        timeout_s: float = 2.0,
        deadline_s: float = 10.0,
        retries: int = 3,
        backoff_s: float = 0.05,
        batch: int = 1000,
    ) -> None:
        """Prepare a client; it connects at its first call.

        Args:
            url: Base URL of the reader, such as `http://127.0.0.1:8080`.
            token: Bearer token, "" if the reader requires none.
            timeout_s: Longest wait for one attempt.
            deadline_s: Longest wait for a call with all its attempts.
            retries: Attempts after the first, on transport errors and on 429, 502, 503 and 504.
            backoff_s: Longest pause before the second attempt; it doubles with each further attempt, and the client
                waits a random part of it. A longer Retry-After is obeyed if the deadline allows it.
            batch: Most keys in one request of `get_many`, at most the reader's `reader_max_keys`.
        """
        self._options: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "timeout": timeout_s,
            "headers": {"authorization": f"Bearer {token}"} if token else {},
        }
        self._deadline_s = deadline_s
        self._retries = retries
        self._backoff = Backoff(backoff_s)
        self._batch = batch

    def _one_key_call(self, pipeline: str, key: Key, fields: Sequence[str], limit: int | None) -> ClientCall:
        method, path, params, body = one_request(pipeline, key_text(key), fields, limit)
        if body is not None:
            return ClientCall(method, path, lambda data: answers_from(data)[0], json=body)
        return ClientCall(method, path, answer_from, params)

    def _many_keys_calls(
        self, pipeline: str, keys: Sequence[Key], fields: Sequence[str], limit: int | None
    ) -> list[ClientCall]:
        path = pipeline_path(pipeline)
        return [
            ClientCall("POST", path, answers_from, json=many_request(keys[start : start + self._batch], fields, limit))
            for start in range(0, len(keys), self._batch)
        ]

    def _model_call(
        self, name: str, request: Mapping[str, Any], deadline_ms: float | None, headers: Mapping[str, str] | None
    ) -> ClientCall:
        sent = {"content-type": "application/json", **(headers or {})}
        if deadline_ms is not None:
            sent["x-deadline-ms"] = f"{deadline_ms:g}"
        return ClientCall(
            "POST", pipeline_path(name), realtime_answer_from, content=request_body(name, request), headers=sent
        )

    def _next_pause(self, attempt: int, retry_after_s: float, deadline: float, failure: ForecacheError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ForecacheError: `failure`, if no attempt is left or the deadline comes first.
        """
        pause = max(retry_after_s, random.uniform(0, self._backoff.pause_s(attempt + 1)))
        if attempt >= self._retries or time.monotonic() + pause > deadline:
            raise failure
        return pause

    def _transport_failure(self, error: httpx.TransportError) -> ForecacheError:
        return UnavailableError(
            f"The reader at {self._options['base_url']} cannot be reached: {type(error).__name__}: {error}.",
            remedy="Check that it runs and that the address is right.",
        )

    def _outcome(self, call: ClientCall, response: httpx.Response) -> CallOutcome:
        return outcome_of(response.status_code, response.headers, response.content, call.read)


def versions_call(pipeline: str) -> ClientCall:
    return ClientCall("GET", versions_path(pipeline), lambda data: data["versions"])
