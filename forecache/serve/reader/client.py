"""Clients of the reader, blocking and asynchronous: typed answers, retries with backoff, one deadline per call."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from forecache.serve.reader.answer import Answer
from forecache.serve.reader.calls import ClientBase, ClientCall, versions_call
from forecache.serve.reader.wire import Key, RealtimeAnswer, pipeline_path


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
