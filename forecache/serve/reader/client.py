"""Clients of the reader, blocking and asynchronous: typed answers, retries with backoff, one deadline per call."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from forecache.base.errors import UnavailableError
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
    outcome_of,
    pipeline_path,
    realtime_answer_from,
    request_body,
)

T = TypeVar("T")
_NOT_IN_A_PATH = frozenset({"", ".", ".."})
"""Keys that cannot be in a path: HTTP clients resolve dot segments."""


@dataclass(frozen=True)
class ClientCall(Generic[T]):
    """A request, how to read its response, and further arguments of `httpx` for it."""

    method: str
    path: str
    read: Callable[[Any], T]
    arguments: Mapping[str, Any] = field(default_factory=dict)


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
                waits a random part of it. A Retry-After is obeyed if the deadline allows it: the client waits
                for once to twice its time.
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

    def _one_key_call(
        self, pipeline: str, key: Key, fields: Sequence[str], limit: int | None
    ) -> ClientCall[Answer | None]:
        path, text = pipeline_path(pipeline), key_text(key)
        if text in _NOT_IN_A_PATH:
            body = many_request([text], fields, limit)
            return ClientCall("POST", path, lambda data: answers_from(data)[0], {"json": body})
        query = {"fields": ",".join(fields)} if fields else {}
        if limit is not None:
            query["limit"] = str(limit)
        return ClientCall("GET", f"{path}/{quote(text, safe='')}", answer_from, {"params": query or None})

    def _many_keys_calls(
        self, pipeline: str, keys: Sequence[Key], fields: Sequence[str], limit: int | None
    ) -> list[ClientCall[list[Answer]]]:
        path, batches = pipeline_path(pipeline), range(0, len(keys), self._batch)
        bodies = [many_request(keys[start : start + self._batch], fields, limit) for start in batches]
        return [ClientCall("POST", path, answers_from, {"json": body}) for body in bodies]

    def _model_call(
        self, name: str, request: Mapping[str, Any], deadline_ms: float | None, headers: Mapping[str, str] | None
    ) -> ClientCall[RealtimeAnswer]:
        sent = {"content-type": "application/json", **(headers or {})}
        if deadline_ms is not None:
            sent["x-deadline-ms"] = f"{deadline_ms:g}"
        arguments = {"content": request_body(name, request), "headers": sent}
        return ClientCall("POST", pipeline_path(name), realtime_answer_from, arguments)

    def _outcome(self, call: ClientCall[Any], response: httpx.Response) -> CallOutcome:
        return outcome_of(response.status_code, response.headers, response.content, call.read)

    def _transport_failure(self, error: httpx.TransportError) -> CallOutcome:
        failure = UnavailableError(
            f"The reader at {self._options['base_url']} cannot be reached: {type(error).__name__}: {error}.",
            remedy="Check that it runs and that the address is right.",
        )
        return CallOutcome(None, failure, again=True)

    def _next_pause(self, attempt: int, outcome: CallOutcome, deadline: float) -> float:
        """Seconds before the next attempt; raises the failure if there is none, or the deadline comes first."""
        assert outcome.failure is not None
        least_s, left_s = outcome.retry_after_s, deadline - time.monotonic()
        # Many are refused at one moment; if each waited exactly as long as it is told, all would come back at once.
        pause = least_s + random.uniform(0, max(self._backoff.pause_s(attempt + 1), min(least_s, left_s - least_s)))
        if not outcome.again or attempt >= self._retries or pause > left_s:
            raise outcome.failure
        return pause


def _metadata_call(pipeline: str) -> ClientCall[dict[str, Any]]:
    return ClientCall("GET", pipeline_path(pipeline), dict)


def _versions_call(pipeline: str) -> ClientCall[list[dict[str, Any]]]:
    return ClientCall("GET", pipeline_path(pipeline).replace("/v1/", "/versions/"), lambda data: list(data["versions"]))


_PIPELINES_CALL: ClientCall[list[dict[str, Any]]] = ClientCall("GET", "/v1", lambda data: list(data["pipelines"]))


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
        """The answers for many keys, in their order; `found` is False for missing ones. Raises as `get`."""
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
        return self._send(self._model_call(name, request, deadline_ms, headers))

    def metadata(self, pipeline: str) -> dict[str, Any]:
        """Metadata of the served pipeline: version, key, fields, policy, freshness."""
        return self._send(_metadata_call(pipeline))

    def versions(self, pipeline: str) -> list[dict[str, Any]]:
        """The retained versions, newest first."""
        return self._send(_versions_call(pipeline))

    def pipelines(self) -> list[dict[str, Any]]:
        """The pipelines that the token covers."""
        return self._send(_PIPELINES_CALL)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: ClientCall[T]) -> T:
        deadline = time.monotonic() + self._deadline_s
        for attempt in range(self._retries + 1):
            try:
                outcome = self._outcome(call, self._http.request(call.method, call.path, **call.arguments))
            except httpx.TransportError as error:
                outcome = self._transport_failure(error)
            if outcome.failure is None:
                return outcome.value
            time.sleep(self._next_pause(attempt, outcome, deadline))
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
        return await self._send(self._model_call(name, request, deadline_ms, headers))

    async def metadata(self, pipeline: str) -> dict[str, Any]:
        """As `Client.metadata`."""
        return await self._send(_metadata_call(pipeline))

    async def versions(self, pipeline: str) -> list[dict[str, Any]]:
        """As `Client.versions`."""
        return await self._send(_versions_call(pipeline))

    async def pipelines(self) -> list[dict[str, Any]]:
        """As `Client.pipelines`."""
        return await self._send(_PIPELINES_CALL)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, call: ClientCall[T]) -> T:
        deadline = time.monotonic() + self._deadline_s
        for attempt in range(self._retries + 1):
            try:
                outcome = self._outcome(call, await self._http.request(call.method, call.path, **call.arguments))
            except httpx.TransportError as error:
                outcome = self._transport_failure(error)
            if outcome.failure is None:
                return outcome.value
            await asyncio.sleep(self._next_pause(attempt, outcome, deadline))
        raise AssertionError("the last attempt returns or raises")
