"""The gateway decodes as little of a request body as it can."""

import asyncio
import tracemalloc
from typing import cast

import pytest
from starlette.types import Message, Scope

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.gateway.endpoint import LIMITS, GatewayEndpoint
from fsm_runner.gateway.errors import GatewayError
from fsm_runner.gateway.request import GatewayRequest
from fsm_runner.gateway.routes import handle
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import ExecutorEvent, SessionChannel

BODY_BYTES = 1024 * 1024
COPIES_LIMIT = 5
"""Copies of a body that may be in memory: received, joined, encoded again. Decoded objects would take more."""
MANY_SMALL_VALUES = b",".join([b'{"a":1.5}'] * (BODY_BYTES // 10))


class Channel:
    """Acknowledges each message at once."""

    def bind(self, executor_session_id: str, project_dir: str | None) -> DeliveryFuture:
        return self.metadata(b"")

    def event(self, event: ExecutorEvent, body: bytes) -> DeliveryFuture:
        return self.metadata(body)

    def metadata(self, body: bytes) -> DeliveryFuture:
        answered: DeliveryFuture = asyncio.get_running_loop().create_future()
        answered.set_result(ApiResponse("", 201, b"{}"))
        return answered


async def status_of(method: str, path: str, body: bytes) -> int:
    """Return the status of the response that `handle` produces."""
    sent: list[Message] = []

    arriving = [body]

    async def receive() -> Message:
        if not arriving:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": arriving.pop(), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    endpoint = GatewayEndpoint("ses_own", cast(SessionChannel, Channel()), "", LIMITS, lambda: None)
    scope: Scope = {"type": "http", "method": method, "headers": [], "query_string": b""}
    try:
        await handle(GatewayRequest(endpoint, (path,), cast(CoordinatorApi, None), scope, receive, send))
    except GatewayError as error:
        return error.status
    return cast(int, sent[0]["status"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "bind", 201),
        ("POST", "events", 201),
        ("PATCH", "metadata", 201),
        ("POST", "runs", 400),
    ],
)
async def test_a_body_of_many_small_values_is_not_decoded_into_objects(method: str, path: str, status: int) -> None:
    head = b'{"session_id":"ses_own","executor_session_id":"e","type":"no_such_type","x":['
    body = head + MANY_SMALL_VALUES + b"]}"
    await status_of(method, path, b"{}")
    tracemalloc.start()
    try:
        assert await status_of(method, path, body) == status
        assert tracemalloc.get_traced_memory()[1] < COPIES_LIMIT * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", ["bind", "events"])
async def test_a_body_of_many_fields_is_not_decoded_into_objects(path: str) -> None:
    fields = b",".join(b'"k%07d":1' % number for number in range(BODY_BYTES // 13))
    body = b'{"session_id":"ses_own","executor_session_id":"e",' + fields + b"}"
    await status_of("POST", path, b"{}")
    tracemalloc.start()
    try:
        assert await status_of("POST", path, body) == 201
        assert tracemalloc.get_traced_memory()[1] < COPIES_LIMIT * len(body)
    finally:
        tracemalloc.stop()


async def test_a_large_value_in_place_of_a_string_is_not_decoded() -> None:
    body = b'{"session_id":[' + MANY_SMALL_VALUES + b"]}"
    tracemalloc.start()
    try:
        for method, path in (("POST", "bind"), ("POST", "events"), ("PATCH", "metadata"), ("POST", "runs")):
            assert await status_of(method, path, body) == 400
        assert tracemalloc.get_traced_memory()[1] < COPIES_LIMIT * len(body)
    finally:
        tracemalloc.stop()
