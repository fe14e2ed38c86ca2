"""The limits of executors' requests, and the gateway's own errors."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway.endpoint import LIMITS, GatewayEndpoint
from fsm_runner.http_server.server import HEADERS_LIMIT_BYTES
from fsm_runner.reporting.queue import DeliveryFuture
from tests.support.gateway import PATIENT, bench, event_of, path_of, raw_exchange
from tests.support.logs import log_lines
from tests.support.watch import PATIENCE_S

SMALL = msgspec.structs.replace(PATIENT, body_bytes=1000)
MIB = 1024 * 1024


async def endless(size_bytes: int) -> AsyncGenerator[bytes]:
    for _ in range(0, size_bytes, 1000):
        yield b"x" * 1000


@pytest.mark.parametrize(("method", "path"), [("POST", "/events"), ("PATCH", "/metadata"), ("POST", "/runs")])
async def test_a_body_above_the_limit_is_a_413_with_and_without_a_length(method: str, path: str) -> None:
    async with bench(SMALL) as b:
        for content in (b"x" * 1001, endless(2000)):
            answer = await b.http.request(method, path, content=content)
            assert answer.status_code == 413
            assert answer.json() == {"detail": "The body is larger than 1,000 bytes"}
        assert b.proxy.calls == []


async def test_a_body_at_the_limit_is_accepted() -> None:
    async with bench(SMALL) as b:
        body = msgspec.json.encode(event_of(b.own)).ljust(1000)
        assert (await b.http.post("/events", content=body)).status_code == 201
        assert (await b.http.post("/events", content=body + b" ")).status_code == 413


async def test_a_streamed_body_has_the_limit_too() -> None:
    async with bench(SMALL, through_proxy=False) as b:
        child = await b.child()
        answer = await b.http.post(f"/sessions/{child['session_id']}/stop", content=endless(100_000))
        assert answer.status_code == 413


async def test_an_announced_body_above_the_limit_is_not_waited_for() -> None:
    async with bench() as b:
        head = b"POST %s/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        answer = await raw_exchange(b.endpoint.url, head % (path_of(b.endpoint), LIMITS.body_bytes + 1))
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_event_of_15_mib_is_delivered_and_one_above_16_mib_is_not() -> None:
    async with bench() as b:
        event = event_of(b.own, tool_output="x" * (15 * MIB))
        assert (await b.http.post("/events", json=event)).status_code == 201
        assert len((await b.events(b.own))[0]["tool_output"]) == 15 * MIB
        assert (await b.http.post("/events", content=endless(17 * MIB))).status_code == 413
        assert (await b.http.post("/events", json=event_of(b.own))).status_code == 201


async def test_the_body_of_a_request_without_an_endpoint_is_not_waited_for() -> None:
    async with bench() as b:
        head = b"POST /wrong/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        assert (await raw_exchange(b.endpoint.url, head)).startswith(b"HTTP/1.1 404 ")


async def test_a_body_that_does_not_arrive_is_a_408_and_closes_the_connection() -> None:
    async with bench(msgspec.structs.replace(PATIENT, body_s=0.05)) as b:
        head = b"POST %s/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        answer = await raw_exchange(b.endpoint.url, head % path_of(b.endpoint), to_end=True)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()


class SlowMessage:
    """A message whose body begins at once and ends with `end`."""

    def __init__(self, session_id: str, fields: dict[str, str] | None = None) -> None:
        self._body = msgspec.json.encode(event_of(session_id, 1) if fields is None else fields)
        self._released = asyncio.Event()

    async def body(self) -> AsyncGenerator[bytes]:
        yield b" "
        await self._released.wait()
        yield self._body

    async def is_being_read(self, endpoint: SessionEndpoint) -> None:
        assert isinstance(endpoint, GatewayEndpoint)
        async with asyncio.timeout(PATIENCE_S):
            while not endpoint.body_slots.locked():  # noqa: ASYNC110 - the program has no event for this
                await asyncio.sleep(0)

    def end(self) -> None:
        self._released.set()


ONE_BODY = msgspec.structs.replace(PATIENT, bodies_at_once=1)


async def test_no_more_bodies_are_read_at_once_than_the_limit() -> None:
    async with bench(ONE_BODY) as b:
        slow = SlowMessage(b.own)
        first = asyncio.create_task(b.http.post("/events", content=slow.body()))
        await slow.is_being_read(b.endpoint)
        second = asyncio.create_task(b.http.post("/events", json=event_of(b.own, 2)))
        assert not (await asyncio.wait([second], timeout=0.2))[0]
        slow.end()
        assert {(await first).status_code, (await second).status_code} == {201}
        assert [call.json["content"][0]["text"] for call in b.proxy.calls] == ["1", "2"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/bind"), ("POST", "/events"), ("PATCH", "/metadata")])
async def test_a_message_that_arrives_while_the_endpoint_closes_is_not_accepted(method: str, path: str) -> None:
    async with bench(ONE_BODY) as b:
        slow = SlowMessage(b.own, {"session_id": b.own, "executor_session_id": "exe-1", "event_type": "message"})
        posting = asyncio.create_task(b.http.request(method, path, content=slow.body()))
        await slow.is_being_read(b.endpoint)
        b.endpoint.close()
        slow.end()
        assert (await posting).status_code == 404
        assert b.proxy.calls == []


async def test_headers_above_the_limit_are_refused() -> None:
    """The web server refuses those that arrive in pieces, and the gateway the others."""
    async with bench() as b:
        for large in ({"x-large": "x" * (HEADERS_LIMIT_BYTES + 1)}, {f"x-{n}": "x" * 1000 for n in range(70)}):
            answer = await b.http.get("/health", headers=large)
            assert answer.status_code in {400, 431}
        assert b.proxy.calls == []
        assert (await b.http.get("/health", headers={"x-large": "x" * 10_000})).status_code == 200


async def test_requests_of_one_session_do_not_delay_those_of_another() -> None:
    """Most connections have a request whose body does not arrive."""
    limits = msgspec.structs.replace(PATIENT, connections=8)
    async with bench(limits) as b, AsyncExitStack() as stack:
        address = urlsplit(b.endpoint.url)
        request = b"POST %s/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n" % path_of(b.endpoint)
        for _ in range(7):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            stack.callback(writer.close)
            writer.write(request)
        async with httpx.AsyncClient(base_url=b.endpoints.endpoint(b.other).url, timeout=PATIENCE_S) as other:
            assert (await other.get("/health")).status_code == 200
            assert (await other.post("/events", json=event_of(b.other))).status_code == 201


class BrokenChannel:
    """Raises an unexpected error."""

    def event(self, body: bytes) -> DeliveryFuture:
        raise RuntimeError("a secret of the inside")


async def test_a_defect_is_a_500_without_details_and_is_logged_without_the_token() -> None:
    with log_lines() as log:
        async with bench() as b:
            # The test sends only events to this channel.
            endpoint = b.endpoints.gateway.open(b.own, BrokenChannel())  # type: ignore[arg-type]
            async with httpx.AsyncClient(base_url=endpoint.url) as http:
                answer = await http.post("/events", json=event_of(b.own))
                assert answer.status_code == 500
                assert answer.json() == {"detail": "Internal Server Error"}
                assert (await http.get("/health")).status_code == 200
            token = path_of(endpoint)[1:].decode()
    assert [line for line in log if "could not be answered" in line]
    assert not [line for line in log if token in line]


async def test_an_endpoint_needs_a_started_gateway() -> None:
    async with bench() as b:
        await b.endpoints.gateway.aclose()
        await b.endpoints.gateway.aclose()
        with pytest.raises(RuntimeError, match="not started"):
            b.endpoints.endpoint(b.own)
