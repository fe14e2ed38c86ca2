"""A gateway with a real coordinator, outbox and channel; httpx in place of an executor."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.policy import SESSION_BACKLOG_LIMIT_BYTES
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway.endpoint import LIMITS, GatewayLimits
from fsm_runner.gateway.server import Gateway
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator
from tests.support.proxy import FaultProxy
from tests.support.runner import FAST
from tests.support.watch import PATIENCE_S

PATIENT = msgspec.structs.replace(LIMITS, hold_s=10 * PATIENCE_S)
"""The gateway waits for the coordinator's response, however busy the machine is."""


class EndpointFactory:
    """A gateway, and channels for its endpoints."""

    def __init__(self, gateway: Gateway, context: ReportingContext) -> None:
        self.gateway = gateway
        self._context = context

    def endpoint(self, session_id: str, *, has_turn: Callable[[], bool] = lambda: True) -> SessionEndpoint:
        return self.gateway.open(session_id, SessionChannel(session_id, self._context, has_turn))


@asynccontextmanager
async def gateway_to(
    url: str,
    limits: GatewayLimits = PATIENT,
    undelivered_limit_bytes: int = SESSION_BACKLOG_LIMIT_BYTES,
    auth: httpx.Auth | None = None,
    child_bounds: ChildBounds = unbounded,
) -> AsyncIterator[EndpointFactory]:
    """Start a gateway to the coordinator at this URL."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(CoordinatorApi(url, auth))
        outbox = Outbox(MessageSender(CoordinatorClient(api, FAST)), NoMessageStore())
        stack.push_async_callback(outbox.aclose)
        context = ReportingContext(
            outbox=outbox,
            clock=EventClock(),
            hostname="host",
            executor_profile="profile",
            undelivered_limit_bytes=undelivered_limit_bytes,
        )
        yield EndpointFactory(await stack.enter_async_context(Gateway(api, limits, child_bounds=child_bounds)), context)


def executor_at(endpoint: SessionEndpoint) -> httpx.AsyncClient:
    """Return an executor that joins paths to its base URL."""
    return httpx.AsyncClient(base_url=endpoint.url, timeout=PATIENCE_S, trust_env=False)


@dataclass(frozen=True)
class Bench:
    """An executor of session `own`, and another session."""

    coordinator: EmbeddedCoordinator
    proxy: FaultProxy
    endpoints: EndpointFactory
    own: str
    other: str
    endpoint: SessionEndpoint
    http: httpx.AsyncClient
    """The executor."""

    async def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return the session's events, except those of the coordinator itself."""
        events = (await self.coordinator.http.get(f"/sessions/{session_id}/events")).json()["events"]
        return [each for each in events if not each["event_type"].startswith("run_")]

    async def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = (await self.coordinator.http.get(f"/sessions/{session_id}")).json()["session"]
        return session

    async def child(self, parent: str | None = None) -> dict[str, Any]:
        """Start a child run, not through the gateway."""
        return await self.coordinator.prompt(parent_session_id=parent or self.own)


@asynccontextmanager
async def bench(
    limits: GatewayLimits = PATIENT,
    undelivered_limit_bytes: int = SESSION_BACKLOG_LIMIT_BYTES,
    *,
    has_turn: Callable[[], bool] = lambda: True,
    through_proxy: bool = True,
) -> AsyncIterator[Bench]:
    """`through_proxy`: between gateway and coordinator. The proxy buffers streams until they end."""
    async with AsyncExitStack() as stack:
        coordinator = await stack.enter_async_context(embedded_coordinator())
        await coordinator.register()
        await coordinator.register(**autonomous(executor_profile="autonomous"))
        proxy = await stack.enter_async_context(FaultProxy(coordinator.server.url))
        url = proxy.url if through_proxy else coordinator.server.url
        endpoints = await stack.enter_async_context(gateway_to(url, limits, undelivered_limit_bytes))
        own = (await coordinator.submit("own"))["session_id"]
        other = (await coordinator.submit("other"))["session_id"]
        endpoint = endpoints.endpoint(own, has_turn=has_turn)
        http = await stack.enter_async_context(executor_at(endpoint))
        yield Bench(coordinator, proxy, endpoints, own, other, endpoint, http)


def event_of(session_id: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    timestamp = f"2026-01-01T00:00:00.{number:06}Z"
    content = [{"type": "text", "text": str(number)}]
    return {
        "event_type": "message",
        "session_id": session_id,
        "timestamp": timestamp,
        "role": "user",
        "content": content,
        **fields,
    }


@dataclass(frozen=True)
class Arrived:
    """A request that has reached the coordinator."""

    method: str
    target: bytes
    """Path and query as sent."""
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class RecordingCoordinator:
    """An ASGI application that responds with `answer` to every request, and records the requests."""

    def __init__(self, answer: Any = None, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.arrived: list[Arrived] = []
        self.answer = {"ok": True} if answer is None else answer
        self.headers = headers or []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        self.arrived.append(Arrived(scope["method"], scope["raw_path"] + query, scope["headers"], bytes(body)))
        headers = [(b"content-type", b"application/json"), *self.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": msgspec.json.encode(self.answer)})


async def raw_exchange(endpoint_url: str, request: bytes, *, to_end: bool = False) -> bytes:
    """Send these bytes and return the first part of the response; `to_end`: everything until the server disconnects."""
    parts = urlsplit(endpoint_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read(-1 if to_end else 64 * 1024)
    finally:
        writer.close()
        await writer.wait_closed()


async def at_target(http: httpx.AsyncClient, method: str, target: bytes, **request: Any) -> httpx.Response:
    """Send a request with exactly this target, which httpx would normalise otherwise."""
    return await http.request(method, "/", extensions={"target": target}, **request)


def path_of(endpoint: SessionEndpoint) -> bytes:
    """Return the path of the endpoint's base URL."""
    return urlsplit(endpoint.url).path.encode()
