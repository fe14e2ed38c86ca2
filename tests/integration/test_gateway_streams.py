"""Streams through the gateway, in both directions, and how they end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from tests.support.gateway import PATIENT, RecordingCoordinator, bench, executor_at, gateway_to, path_of, raw_exchange
from tests.support.serving import serving
from tests.support.watch import PATIENCE_S

CHILD = {"session": {"session_id": "ses_child", "parent_session_id": "ses_own"}}
STREAM = "/sse/sessions?session_id=ses_own"


class StreamingCoordinator:
    """Responds to `GET /sse/sessions` with `one` at once and with `two` when `go` is set; echoes the body of a stop."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.left = asyncio.Event()
        """Set when the gateway has disconnected."""
        self.first_piece: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.breaks_off = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/sse/sessions":
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await self._until_told(receive)
            if self.breaks_off:
                raise ConnectionResetError
            await send({"type": "http.response.body", "body": b"two"})
        elif scope["method"] == "POST":
            body, more = bytearray(), True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if body and not self.first_piece.done():
                    self.first_piece.set_result(bytes(body))
            await send({"type": "http.response.body", "body": bytes(body)})
        else:
            await send({"type": "http.response.body", "body": msgspec.json.encode(CHILD)})

    async def _until_told(self, receive: Receive) -> None:
        going = asyncio.create_task(self.go.wait())
        leaving = asyncio.create_task(self._hangup(receive))
        await asyncio.wait([going, leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in (going, leaving):
            task.cancel()

    async def _hangup(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[StreamingCoordinator, httpx.AsyncClient]]:
    coordinator = StreamingCoordinator()
    async with (
        serving(coordinator) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        yield coordinator, http


@asynccontextmanager
async def listening(http: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield a stream after its first chunk, and keep it open: closing the iterator would disconnect."""
    async with http.stream("GET", STREAM) as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"one"
        yield pieces


async def test_a_response_is_streamed() -> None:
    async with streaming() as (coordinator, http), listening(http) as pieces:
        coordinator.go.set()
        assert await anext(pieces) == b"two"
        assert [piece async for piece in pieces] == []


async def test_a_body_that_the_gateway_does_not_read_is_streamed() -> None:
    async with streaming() as (coordinator, http):

        async def body() -> AsyncGenerator[bytes]:
            yield b"one"
            assert await coordinator.first_piece == b"one"
            yield b"two"

        answer = await http.post("/sessions/ses_child/stop", content=body())
        assert (answer.status_code, answer.content) == (200, b"onetwo")


async def test_a_disconnect_ends_the_request_to_the_coordinator() -> None:
    async with streaming() as (coordinator, http):
        async with listening(http):
            assert not coordinator.left.is_set()
        async with asyncio.timeout(PATIENCE_S):
            await coordinator.left.wait()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/sessions/ses_child"),
        ("POST", "/sessions/ses_child/stop"),
        ("POST", "/runs/r/stop"),
    ],
)
async def test_a_disconnect_before_the_response_ends_the_request_to_the_coordinator(method: str, path: str) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def never_answers(_: Scope, receive: Receive, __: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                left.set()
                return
            arrived.set()

    async with (
        serving(never_answers) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        asking = asyncio.create_task(http.request(method, path))
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
            asking.cancel()
            await left.wait()
        await asyncio.wait([asking])


async def test_closing_an_endpoint_ends_its_streams() -> None:
    coordinator = StreamingCoordinator()
    async with serving(coordinator) as url, gateway_to(url) as endpoints:
        endpoint = endpoints.endpoint("ses_own")
        async with executor_at(endpoint) as http, listening(http) as pieces:
            endpoint.close()
            async with asyncio.timeout(PATIENCE_S):
                await coordinator.left.wait()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(pieces)


async def test_a_request_that_waits_while_its_endpoint_closes_is_a_404() -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def never_answers(_: Scope, receive: Receive, __: Send) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with serving(never_answers) as url, gateway_to(url) as endpoints:
        endpoint = endpoints.endpoint("ses_own")
        async with executor_at(endpoint) as http, asyncio.timeout(PATIENCE_S):
            asking = asyncio.create_task(http.get("/health"))
            await arrived.wait()
            endpoint.close()
            answer = await asking
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
            await left.wait()


async def test_the_end_of_the_gateway_ends_all_streams() -> None:
    coordinator = StreamingCoordinator()
    async with (
        serving(coordinator) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
        listening(http),
    ):
        async with asyncio.timeout(PATIENCE_S):
            await endpoints.gateway.aclose()
            await coordinator.left.wait()


async def test_an_interrupted_response_does_not_look_complete() -> None:
    async with streaming() as (coordinator, http):
        coordinator.breaks_off = True
        async with listening(http) as pieces:
            coordinator.go.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(pieces)


async def test_one_session_cannot_take_all_connections() -> None:
    coordinator = StreamingCoordinator()
    limits = msgspec.structs.replace(PATIENT, forwards_at_once=1)
    async with (
        serving(coordinator) as url,
        gateway_to(url, limits) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
        executor_at(endpoints.endpoint("ses_second")) as second,
    ):
        async with listening(http):
            refused = await http.get("/sessions/ses_own")
            assert refused.status_code == 429
            assert (await second.get("/sessions/ses_second")).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            while (await http.get("/sessions/ses_own")).status_code == 429:
                pass


async def test_changes_of_a_session_are_streamed() -> None:
    async with bench(through_proxy=False) as b:
        query = {"session_id": b.own, "include_init": "false"}
        async with b.http.stream("GET", "/sse/sessions", params=query) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            lines = answer.aiter_lines()
            await b.coordinator.event({"session_id": b.other})
            await b.http.post("/bind", json={"session_id": b.own, "executor_session_id": "exe-1"})
            received = [await anext(lines), await anext(lines)]
            assert received[0] == "event: session_updated"
            assert b.own in received[1]
            assert b.other not in received[1]


class Reading(httpx.Auth):
    """Reads each response, as an auth flow may have to."""

    requires_response_body = True

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = "Bearer of-the-runner"
        yield request


async def test_the_runners_credentials_are_added_and_a_response_that_they_read_is_forwarded() -> None:
    recorder = RecordingCoordinator({"x": "y" * 100_000})
    async with (
        serving(recorder) as url,
        gateway_to(url, auth=Reading()) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        answer = await http.get("/health", headers={"authorization": "Bearer forged"})
        assert answer.json() == recorder.answer
        assert recorder.arrived[0].values(b"authorization") == [b"Bearer of-the-runner"]


async def test_a_pipelined_request_is_answered_after_the_one_before() -> None:
    recorder = RecordingCoordinator()
    async with serving(recorder) as url, gateway_to(url) as endpoints:
        endpoint = endpoints.endpoint("ses_own")
        request = b"GET %s/health HTTP/1.1\r\nHost: localhost\r\n" % path_of(endpoint)
        answer = await raw_exchange(
            endpoint.url, request + b"\r\n" + request + b"Connection: close\r\n\r\n", to_end=True
        )
        assert answer.count(b"HTTP/1.1 200") == 2
