"""Every request to the two HTTP servers is answered quickly and as documented."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.gateway.endpoint import LIMITS
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator
from tests.support.gateway import EndpointFactory, gateway_to, raw_exchange
from tests.support.hostile_requests import Sent, as_bytes, each_field_spoiled, nested, requests
from tests.support.openapi import COORDINATOR, DOCUMENTS, GATEWAY, Operation, operations
from tests.support.scripts import write_script
from tests.support.watch import PATIENCE_S

pytestmark = pytest.mark.sends_invalid_requests("executors send events and metadata of any shape")

REQUESTS = 12
TIMINGS = Timings(poll_timeout_s=0.02, keep_alive_s=0.02)
STRANGE_PATH_STATUSES = frozenset({307, 404, 405})
"""An encoded `/` or an empty name makes another path; a path with an extra `/` is redirected."""


class DeliveryFuture:
    def __init__(self, sent: Sent, response: httpx.Response, body: bytes) -> None:
        self.sent = sent
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")
        self.body = body

    def __repr__(self) -> str:
        sent = self.sent
        return (
            f"{sent.operation} {sent.target[:200]} {(sent.content or b'')[:300]!r} {sent.headers}: HTTP {self.status}"
        )

    def defects(self) -> list[str]:
        if self.sent.is_strange and self.status in STRANGE_PATH_STATUSES:
            return []
        return self.sent.operation.defects(self.status, self.content_type, self.body)


class Place:
    """A server, with the ids of its resources."""

    def __init__(self, coordinator: EmbeddedCoordinator, url: str) -> None:
        self.coordinator = coordinator
        self.url = url
        self.http = httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False)

    async def known(self) -> dict[str, str]:
        """Ensure that there are a runner with an agent, a run and a session."""
        raise NotImplementedError

    async def is_well(self) -> None:
        """Check that it answers a plain request."""
        raise NotImplementedError

    async def send_all(self, sent: list[Sent]) -> list[DeliveryFuture]:
        known = await self.known()
        answers = [await self._send(each, known) for each in sent]
        await self.is_well()
        return answers

    async def send_raw(self, sent: list[bytes]) -> None:
        """Check that a response, if there is one, is an error."""
        await self.known()
        for each in sent:
            with suppress(ConnectionError):
                answer = await raw_exchange(self.url, each)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (each[:100], answer)
        await self.is_well()

    async def _send(self, sent: Sent, known: dict[str, str]) -> DeliveryFuture:
        target, content = sent.target, sent.content
        for name, value in known.items():
            target = target.replace(f"{{{name}}}", value)
            content = None if content is None else content.replace(f"{{{name}}}".encode(), value.encode())
        whole = (urlsplit(self.url).path + target.replace("{", "%7B").replace("}", "%7D")).encode()
        headers = [*sent.headers, *([] if content is None else [(b"content-length", b"%d" % len(content))])]
        body = bytearray()
        async with (
            asyncio.timeout(PATIENCE_S),
            self.http.stream(
                sent.operation.method, self.url, headers=headers, content=content, extensions={"target": whole}
            ) as response,
        ):
            async for chunk in response.aiter_raw():
                body += chunk
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    break  # an endless stream
        return DeliveryFuture(sent, response, bytes(body))


class CoordinatorPlace(Place):
    _count = 0

    async def known(self) -> dict[str, str]:
        CoordinatorPlace._count += 1
        profile = f"profile-{CoordinatorPlace._count}"
        agent = {"name": profile, "type": "autonomous", "command": ""}
        runner_id = await self.coordinator.register(**autonomous(executor_profile=profile, agents=[agent]))
        run = await self.coordinator.prompt(agent_name=profile)
        return {
            "session_id": run["session_id"],
            "run_id": run["run_id"],
            "parent_session_id": run["session_id"],
            "runner_id": runner_id,
            "agent_name": profile,
            "name": "tool",
        }

    async def is_well(self) -> None:
        for path in ("/health", "/runs", "/sessions", "/agents", "/runners"):
            assert (await self.coordinator.http.get(path)).status_code == 200, path


class GatewayPlace(Place):
    """The gateway, with a new endpoint for each session."""

    def __init__(self, coordinator: EmbeddedCoordinator, endpoints: EndpointFactory) -> None:
        super().__init__(coordinator, "")
        self._doors = endpoints

    async def known(self) -> dict[str, str]:
        own = await self.coordinator.prompt()
        child = await self.coordinator.prompt(parent_session_id=own["session_id"])
        self.url = self._doors.endpoint(own["session_id"]).url
        return {
            "session_id": own["session_id"],
            "run_id": child["run_id"],
            "parent_session_id": own["session_id"],
            "runner_id": "x",
            "agent_name": "echo",
            "name": "echo",
        }

    async def is_well(self) -> None:
        assert (await self.http.get(f"{self.url}/health")).status_code == 200


class House:
    """Both servers, on one loop that runs while requests are sent."""

    def __init__(self, run: asyncio.Runner, direct: Place, endpoint: Place) -> None:
        self._run = run
        self._places = {COORDINATOR: direct, GATEWAY: endpoint}

    def send(self, file: str, sent: list[Sent]) -> list[DeliveryFuture]:
        return self._run.run(self._places[file].send_all(sent))

    def send_raw(self, file: str, sent: list[bytes]) -> None:
        self._run.run(self._places[file].send_raw(sent))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """New for each test: stored long requests would make every list longer."""
    stack = AsyncExitStack()
    write_script(tmp_path, "tool", "true")

    async def build() -> House:
        coordinator = await stack.enter_async_context(embedded_coordinator(TIMINGS, scripts_dir=tmp_path))
        await coordinator.register()
        endpoints = await stack.enter_async_context(gateway_to(coordinator.server.url, LIMITS))
        direct, endpoint = CoordinatorPlace(coordinator, coordinator.server.url), GatewayPlace(coordinator, endpoints)
        for place in (direct, endpoint):
            await stack.enter_async_context(place.http)
        return House(runner, direct, endpoint)

    with asyncio.Runner() as runner:
        yield runner.run(build())
        runner.run(stack.aclose())


def many(file: str) -> st.SearchStrategy[list[Sent]]:
    return st.lists(st.one_of(*map(requests, operations(file))), min_size=REQUESTS // 2, max_size=REQUESTS)


def refuse_defects(answers: list[DeliveryFuture]) -> None:
    found = [f"{each!r}: {defect}" for each in answers for defect in each.defects()]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", DOCUMENTS)
def test_a_method_that_no_document_names_is_refused(house: House, file: str) -> None:
    every = operations(file)
    documented = {(each.method, each.path) for each in every}
    methods = ("GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X" * 100, "*")
    asked = [
        msgspec.structs.replace(each, method=method)
        for each in every
        for method in methods
        if (method, each.path) not in documented
    ]
    for answered in house.send(file, [Sent(each, each.path, False, b"{}") for each in asked]):
        assert answered.status == (405 if file == COORDINATOR else 403), answered
        assert "detail" in msgspec.json.decode(answered.body), answered


HOST = b"host: 127.0.0.1\r\n"
POST = b"POST /runs HTTP/1.1\r\n" + HOST
NO_REQUESTS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    b"GET http://elsewhere/runs HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET " + b"/x" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 50_000,
    b"GET / HTTP/1.1\r\n" + HOST + b"x: a\0b\r\n\r\n",
    b"CONNECT elsewhere:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
    POST + b"content-length: -1\r\n\r\n{}",
    POST + b"content-length: 9" + b"9" * 30 + b"\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("file", DOCUMENTS)
def test_invalid_requests_are_refused_or_disconnected(house: House, file: str) -> None:
    house.send_raw(file, NO_REQUESTS)


async def test_a_gateway_without_its_coordinator_answers_as_documented() -> None:
    limits = msgspec.structs.replace(LIMITS, hold_s=0.01)
    async with embedded_coordinator() as coordinator, gateway_to("http://127.0.0.1:1", limits) as endpoints:
        place = GatewayPlace(coordinator, endpoints)
        known = await place.known()
        async with place.http:
            for operation in operations(GATEWAY):
                body = None if operation.body is None else as_bytes(operation.example)
                query = "?session_id={session_id}" if operation.queries else ""
                answered = await place._send(Sent(operation, operation.path + query, False, body), known)
                assert answered.defects() == []
                if operation.method == "GET":
                    # The gateway knows the executor's own session from its last bind.
                    assert answered.status == (200 if operation.path == "/sessions/{session_id}" else 502), answered


with_body = [(file, each) for file in DOCUMENTS for each in operations(file) if each.body is not None]


@pytest.mark.parametrize(("file", "operation"), with_body, ids=lambda value: str(value).partition(".")[0])
def test_every_field_of_an_example_may_be_anything(house: House, file: str, operation: Operation) -> None:
    refuse_defects(house.send(file, list(each_field_spoiled(operation))))


def test_an_accepted_value_can_be_returned_at_any_depth(house: House) -> None:
    """A stored run that cannot be encoded would make the list of all runs unreadable."""
    (create,) = (each for each in operations(COORDINATOR) if str(each) == "POST /runs")
    bodies = (
        b'{"type":"start_session","parameters":{"prompt":"x","deep":%s}}' % nested(depth) for depth in range(150, 1_000)
    )
    refuse_defects(house.send(COORDINATOR, [Sent(create, "/runs", False, body) for body in bodies]))


thorough = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@thorough
@given(many(COORDINATOR))
def test_the_coordinator_answers_as_documented(house: House, sent: list[Sent]) -> None:
    refuse_defects(house.send(COORDINATOR, sent))


@thorough
@given(many(GATEWAY))
def test_the_gateway_answers_as_documented(house: House, sent: list[Sent]) -> None:
    refuse_defects(house.send(GATEWAY, sent))
