"""Clients of the reader, blocking and asynchronous: typed answers, retries with backoff, one deadline per call."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from forecache.base.errors import ForecacheError, UnavailableError
from forecache.kit.process.periodic import Backoff
from forecache.serve.reader.wire import (
    Answer,
    CallOutcome,
    Key,
    RealtimeAnswer,
    answer_from,
    answers_from,
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


class Client(ClientBase):
    """A blocking client. Safe for threads; close it, or use it in a `with` block."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.Client(**self._options)

    def get(self, pipeline: str, key: Key, *, fields: Sequence[str] = (), limit: int | None = None) -> Answer | None:
        """The answer for one key, None if the published version does not have it.

        Args:
            key: Text or an integer; for a composite key a tuple in column order.
            fields: Names of the fields to return; empty: all.
            limit: Most items of each list, 1 to 1,000; None: all.

        Raises:
            NotFoundError: The reader does not know the pipeline.
            InputError: The key, a field, the limit or the token is invalid.
            UnavailableError: The reader cannot be reached, has no published version, or only one that is too old.
        """
        answer: Answer | None = self._send(self._one_key_call(pipeline, key, fields, limit))
        return answer if answer is not None and answer.found else None

    def get_many(
        self, pipeline: str, keys: Sequence[Key], *, fields: Sequence[str] = (), limit: int | None = None
    ) -> list[Answer]:
        """The answers for many keys, in their order; `found` is False for keys that the version does not have.

        Raises:
            ForecacheError: As `get`.
        """
        return [answer for call in self._many_keys_calls(pipeline, keys, fields, limit) for answer in self._send(call)]

    def ask(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RealtimeAnswer:
        """The answer of a real-time model.

        Args:
            request: Its fields and candidates, as JSON has them, or dates, moments, and numbers and arrays of numpy;
                `request_id` comes back in the answer.
            deadline_ms: In which the answer is wanted; None: what the declaration grants.
            headers: Further ones, such as `traceparent`.

        Raises:
            NotFoundError: The reader does not know the model.
            InputError: A field, the deadline or the token is invalid.
            UnavailableError: The reader cannot be reached, or has no release of the model.
        """
        answer: RealtimeAnswer = self._send(self._model_call(name, request, deadline_ms, headers))
        return answer

    def metadata(self, pipeline: str) -> dict[str, Any]:
        """Metadata of the served pipeline: version, key, fields, policy, freshness."""
        return dict(self._send(ClientCall("GET", pipeline_path(pipeline), dict)))

    def versions(self, pipeline: str) -> list[dict[str, Any]]:
        """The retained versions, newest first."""
        return list(self._send(versions_call(pipeline)))

    def pipelines(self) -> list[dict[str, Any]]:
        """The pipelines that the token covers."""
        return list(self._send(ClientCall("GET", "/v1", lambda data: data["pipelines"])))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: ClientCall) -> Any:
        deadline = time.monotonic() + self._deadline_s
        for attempt in range(self._retries + 1):
            try:
                response = self._http.request(call.method, call.path, **call.httpx_arguments)
            except httpx.TransportError as error:
                failure, after = self._transport_failure(error), 0.0
            else:
                outcome = self._outcome(call, response)
                if outcome.failure is None:
                    return outcome.value
                failure, after = outcome.failure, outcome.retry_after_s
                if not outcome.again:
                    raise failure
            time.sleep(self._next_pause(attempt, after, deadline, failure))
        raise AssertionError("the last attempt returns or raises")


class AsyncClient(ClientBase):
    """The same client for asyncio; close it with `await client.aclose()`, or use it in an `async with` block."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def get(
        self, pipeline: str, key: Key, *, fields: Sequence[str] = (), limit: int | None = None
    ) -> Answer | None:
        """As `Client.get`."""
        answer: Answer | None = await self._send(self._one_key_call(pipeline, key, fields, limit))
        return answer if answer is not None and answer.found else None

    async def get_many(
        self, pipeline: str, keys: Sequence[Key], *, fields: Sequence[str] = (), limit: int | None = None
    ) -> list[Answer]:
        """As `Client.get_many`."""
        return [
            answer for call in self._many_keys_calls(pipeline, keys, fields, limit) for answer in await self._send(call)
        ]

    async def ask(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RealtimeAnswer:
        """As `Client.ask`."""
        answer: RealtimeAnswer = await self._send(self._model_call(name, request, deadline_ms, headers))
        return answer

    async def metadata(self, pipeline: str) -> dict[str, Any]:
        """As `Client.metadata`."""
        return dict(await self._send(ClientCall("GET", pipeline_path(pipeline), dict)))

    async def versions(self, pipeline: str) -> list[dict[str, Any]]:
        """As `Client.versions`."""
        return list(await self._send(versions_call(pipeline)))

    async def pipelines(self) -> list[dict[str, Any]]:
        """As `Client.pipelines`."""
        return list(await self._send(ClientCall("GET", "/v1", lambda data: data["pipelines"])))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: ClientCall) -> Any:
        deadline = time.monotonic() + self._deadline_s
        for attempt in range(self._retries + 1):
            try:
                response = await self._http.request(call.method, call.path, **call.httpx_arguments)
            except httpx.TransportError as error:
                failure, after = self._transport_failure(error), 0.0
            else:
                outcome = self._outcome(call, response)
                if outcome.failure is None:
                    return outcome.value
                failure, after = outcome.failure, outcome.retry_after_s
                if not outcome.again:
                    raise failure
            await asyncio.sleep(self._next_pause(attempt, after, deadline, failure))
        raise AssertionError("the last attempt returns or raises")
