"""The coordinator's API over real sockets: each response becomes a value or its error."""

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.api import CoordinatorApi, Polled, UnreadableRun
from fsm_runner.coordinator_client.errors import (
    AgentNameCollision,
    DuplicateRunner,
    NotAuthenticated,
    NotRegistered,
    Refused,
    Unreachable,
)
from fsm_runner.coordinator_client.policy import CONTROL_TIMEOUT_S, REPORT_CONNECTIONS
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.transport import Transport, checked_url
from fsm_runner.errors import UsageError
from fsm_runner.protocol import wire
from fsm_runner.protocol.approvals import DecisionRequest
from fsm_runner.protocol.urls import path_segment
from tests.support.watch import PATIENCE_S

DECISION: dict[str, Any] = {"run_id": "run_1", "visit": 3, "approved": True, "by": "ada", "at": "now", "id": "d1"}

REGISTRATION = wire.Registration(
    hostname="h",
    project_dir="/p",
    executor_profile="echo",
    executor=wire.ExecutorInfo(type="procedural", command="c"),
)
RUN = {"run_id": "run_1", "session_id": "ses_1", "type": "start_session", "parameters": {"a": 1}}


def answer(status: int, body: Any = b"", content_type: str = "application/json", length: int | None = None) -> bytes:
    """Return an HTTP response; `length` is a wrong Content-Length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\ncontent-length: {length or len(content)}\r\n\r\n"
    return head.encode("latin-1") + content


def detail(text: Any) -> dict[str, Any]:
    return {"detail": text}


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[CoordinatorApi]:
    """Yield the API of a server on a socket. All connections are closed afterwards."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with CoordinatorApi(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as api:
        yield api
    server.close()
    if connections:
        await asyncio.wait(connections)


class RawCoordinator:
    """A server that sends the given bytes and records the requests."""

    def __init__(self, raw: bytes | None) -> None:
        self._raw = raw
        self.targets: list[str] = []
        self.bodies: list[bytes] = []
        self.released = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.targets.append(head.split(b"\r\n")[0].decode().rpartition(" ")[0])
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
        if self._raw is None:
            await self.released.wait()
        else:
            writer.write(self._raw)
            await writer.drain()


@asynccontextmanager
async def answering(raw: bytes | None) -> AsyncIterator[tuple[CoordinatorApi, RawCoordinator]]:
    """A coordinator with one response to all calls; None: it waits until it is released."""
    coordinator = RawCoordinator(raw)
    async with listening(coordinator.serve) as api:
        try:
            yield api, coordinator
        finally:
            coordinator.released.set()


Call = Callable[[CoordinatorApi], Awaitable[object]]

CALLS: dict[str, tuple[Call, str]] = {
    "health": (lambda api: api.health(), "GET /health"),
    "register": (lambda api: api.register(REGISTRATION), "POST /runner/register"),
    "poll": (lambda api: api.poll("a/b", 1), "GET /runner/runs?runner_id=a%2Fb"),
    "heartbeat": (lambda api: api.heartbeat("r"), "POST /runner/heartbeat"),
    "deliver": (lambda api: api.deliver("/sessions/s/events", b"{}"), "POST /sessions/s/events"),
    "deregister": (lambda api: api.deregister("a/b"), "DELETE /runners/a%2Fb?self=true"),
    "script_archive": (lambda api: api.script_archive("a?b"), "GET /scripts/a%3Fb/download"),
    "agent": (lambda api: api.agent("a#b/c"), "GET /agents/a%23b%2Fc"),
    "agent_definition": (lambda api: api.agent_definition("a#b/c"), "GET /agents/a%23b%2Fc"),
    "create_run": (
        lambda api: api.create_run(wire.RunRequest(type="start_session", parameters={}, agent_name="a")),
        "POST /runs",
    ),
    "run": (lambda api: api.run(".."), "GET /runs/%2E%2E"),
    "runs": (lambda api: api.runs(), "GET /runs?limit=1000"),
    "runs of a status": (lambda api: api.runs("a&b"), "GET /runs?status=a%26b&limit=1000"),
    "stop_run": (lambda api: api.stop_run("ü"), "POST /runs/%C3%BC/stop"),
    "session_result": (lambda api: api.session_result("%2e"), "GET /sessions/%252e/result"),
}
DECODING_CALLS = [name for name in CALLS if name not in {"health", "deregister", "script_archive"}]

FAULTS: list[tuple[int, Any, type[Exception]]] = [
    (301, b"", Unreachable),
    (302, b"", Unreachable),
    (304, b"", Unreachable),
    (307, b"", Unreachable),
    (400, detail("no"), Refused),
    (401, detail("Runner not registered"), NotRegistered),
    (401, detail({"message": "Runner not registered", "error": "unknown_runner"}), NotRegistered),
    (401, b"Runner not registered", NotRegistered),
    (401, detail("Token expired"), NotAuthenticated),
    (401, b"", NotAuthenticated),
    (403, detail("Forbidden"), NotAuthenticated),
    (403, detail("Runner not registered"), NotAuthenticated),
    (404, detail("Run not found"), Refused),
    (405, b"", Unreachable),
    (404, b"default backend - 404", Unreachable),
    (408, b"", Unreachable),
    (409, detail("exists"), Refused),
    (409, detail({"error": "session_exists"}), Refused),
    (409, b"<html>", Unreachable),
    (422, detail([{"loc": ["body"], "msg": "missing"}]), Refused),
    (425, b"", Unreachable),
    (429, b"", Unreachable),
    (500, b"Internal Server Error", Unreachable),
    (502, b"<html>Bad Gateway</html>", Unreachable),
    (503, b"\xff\xfe", Unreachable),
    (504, b"", Unreachable),
    (599, b"", Unreachable),
]


@pytest.mark.parametrize(("status", "body", "fault"), FAULTS)
async def test_each_status_raises_its_error(status: int, body: Any, fault: type[Exception]) -> None:
    async with answering(answer(status, body)) as (api, _):
        for call, _ in CALLS.values():
            with pytest.raises(fault) as raised:
                await call(api)
            assert type(raised.value) is fault
            assert f"HTTP {status}" in str(raised.value)
            if isinstance(raised.value, Refused):
                assert raised.value.status == status
                assert raised.value.body == (body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_has_its_path_with_quoted_names(name: str) -> None:
    call, target = CALLS[name]
    async with answering(answer(404, detail("unknown"))) as (api, coordinator):
        with pytest.raises(Refused):
            await call(api)
    assert coordinator.targets == [target]


async def test_a_registration_is_sent_with_all_its_fields() -> None:
    async with answering(answer(200, {"runner_id": "r", "poll_endpoint": "/runner/runs"})) as (api, coordinator):
        assert await api.register(REGISTRATION) == wire.Registered(runner_id="r")
    assert json.loads(coordinator.bodies[0]) == {
        "hostname": "h",
        "project_dir": "/p",
        "executor_profile": "echo",
        "executor": {"type": "procedural", "command": "c"},
        "tags": [],
        "require_matching_tags": False,
        "agents": [],
    }


async def test_a_runner_of_the_same_identity_is_a_conflict_with_its_message() -> None:
    conflict = {"error": "duplicate_runner", "runner_id": "r", "hostname": "h", "message": "it is online", "more": 1}
    async with answering(answer(409, detail(conflict))) as (api, _):
        with pytest.raises(DuplicateRunner, match=r"^it is online$") as raised:
            await api.register(REGISTRATION)
    assert raised.value.detail.runner_id == "r"


async def test_an_agent_of_the_same_name_is_a_conflict_that_names_it() -> None:
    conflict = {"error": "agent_name_collision", "agent_name": "echo", "existing_runner_id": "other"}
    async with answering(answer(409, detail(conflict))) as (api, _):
        with pytest.raises(AgentNameCollision, match=r"^agent echo belongs to another runner\. .*agents_dir") as raised:
            await api.register(REGISTRATION)
    assert raised.value.detail.existing_runner_id == "other"


UNREADABLE = [
    answer(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", "text/html"),
    answer(200, b""),
    answer(200, b"null"),
    answer(200, b"[]"),
    answer(200, b'"ok"'),
    answer(200, b'{"run": {"run_id": "run_'),
    answer(200, b"\xff\xfe\x00"),
    answer(200, b"[" * 100_000),
    answer(200, b'{"a":' * 100_000),
]


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_a_200_that_is_not_from_a_coordinator_is_transient(raw: bytes) -> None:
    async with answering(raw) as (api, _):
        for name in DECODING_CALLS:
            with pytest.raises(Unreachable, match="HTTP 200: not a coordinator's response") as raised:
                await CALLS[name][0](api)
            assert len(str(raised.value)) < 1000


BROKEN = [
    answer(200, b'{"ok": tr', length=100),
    b"",
    b"HTTP/1.1 200 OK\r\ncontent-le",
    b"HTTP/1.1 abc\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x50",
]


@pytest.mark.parametrize("raw", BROKEN)
async def test_an_incomplete_response_is_transient(raw: bytes) -> None:
    async with answering(raw) as (api, _):
        for call, _ in CALLS.values():
            with pytest.raises(Unreachable, match=r"(GET|POST|DELETE) http://127.0.0.1:\d+/"):
                await call(api)


@pytest.mark.parametrize("charset", ["hex", "rot13", "idna", "undefined", "utf-16", "no-such-thing", "\xff"])
@pytest.mark.parametrize(("status", "fault"), [(500, Unreachable), (401, NotAuthenticated), (200, Unreachable)])
async def test_the_character_set_of_a_response_is_ignored(charset: str, status: int, fault: type[Exception]) -> None:
    async with answering(answer(status, b"xyz\xff\\u", f"text/html; charset={charset}")) as (api, _):
        with pytest.raises(fault):
            await api.heartbeat("r")


async def test_an_error_shows_an_excerpt_of_a_long_response() -> None:
    async with answering(answer(500, b"x " * 100_000)) as (api, _):
        with pytest.raises(Unreachable, match=r"x ?…$") as raised:
            await api.health()
    assert len(str(raised.value)) < 500


async def test_a_reset_connection_is_transient() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with listening(reset) as api:
        with pytest.raises(Unreachable, match=r"GET http://127\.0\.0\.1:\d+/health: "):
            await api.health()


async def test_a_refused_connection_is_reported_with_the_coordinator_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with CoordinatorApi(f"http://127.0.0.1:{port}/") as api:
        with pytest.raises(Unreachable, match=f"^Cannot connect to Agent Coordinator at http://127.0.0.1:{port}: ."):
            await api.health()


async def test_a_missing_response_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "POLL_MARGIN_S", 0.05)
    async with answering(None) as (api, _):
        with pytest.raises(Unreachable, match="ReadTimeout"):
            await api.poll("r", 0.05)


async def test_a_poll_lasts_for_the_hold_time_and_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that is given up early loses its content, so the margin applies even without a hold time."""
    monkeypatch.setattr(policy, "POLL_MARGIN_S", 20)
    async with answering(None) as (api, coordinator):
        polling = asyncio.create_task(api.poll("r", 0.01))
        done, _ = await asyncio.wait({polling}, timeout=0.3)
        assert not done
        coordinator.released.set()
        with pytest.raises(Unreachable):
            await polling


async def test_an_empty_poll_response_has_no_content() -> None:
    for raw in (b"HTTP/1.1 204 No Content\r\n\r\n", answer(200, {}), answer(200, {"run": None, "news": 1})):
        async with answering(raw) as (api, _):
            assert await api.poll("r", 1) == Polled()


async def test_a_poll_response_has_a_run() -> None:
    blueprint = {"name": "a", "command": "x", "unknown": [1]}
    async with answering(answer(200, {"run": RUN | {"resolved_agent_blueprint": blueprint, "new": 1}})) as (api, _):
        polled = await api.poll("r", 1)
    assert isinstance(polled.run, wire.Run)
    assert (polled.run.run_id, polled.run.session_id, polled.run.parameters) == ("run_1", "ses_1", {"a": 1})
    assert polled.run.resolved_agent_blueprint == blueprint


@pytest.mark.parametrize(
    ("body", "polled"),
    [
        ({"stop_sessions": ["a", "b"]}, Polled(stop_sessions=("a", "b"))),
        ({"sync_scripts": ["a"], "remove_scripts": ["b"]}, Polled(sync_scripts=("a",), remove_scripts=("b",))),
        ({"deregistered": True}, Polled(deregistered=True)),
        ({"approvals": [DECISION, {**DECISION, "visit": "x"}, 5]}, Polled(approvals=(DecisionRequest(**DECISION),))),
    ],
)
async def test_a_poll_response_has_stops_and_scripts(body: Any, polled: Polled) -> None:
    async with answering(answer(200, body)) as (api, _):
        assert await api.poll("r", 1) == polled


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ({"run_id": "run_1"}, "session_id"),
        (RUN | {"session_id": 5}, "$.session_id"),
        (RUN | {"type": "dance"}, "$.type"),
        (RUN | {"parameters": []}, "$.parameters"),
        (RUN | {"demands": 10**400}, ""),
    ],
)
async def test_an_invalid_run_keeps_its_id(run: Any, named: str) -> None:
    async with answering(answer(200, {"run": run})) as (api, _):
        unreadable = (await api.poll("r", 1)).run
    assert isinstance(unreadable, UnreadableRun)
    assert unreadable.run_id == "run_1"
    assert named in unreadable.defect


async def test_a_run_nested_too_deeply_to_find_its_id_is_transient() -> None:
    body = b'{"run": {"parameters": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b'}, "run_id": "run_1"}}'
    async with answering(answer(200, body)) as (api, _):
        with pytest.raises(Unreachable, match="recursion"):
            await api.poll("r", 1)


@pytest.mark.parametrize("run", [5, [], "run_1", {}, {"run_id": None}, {"session_id": "ses_1"}])
async def test_a_run_without_an_id_is_transient(run: Any) -> None:
    async with answering(answer(200, {"run": run})) as (api, _):
        with pytest.raises(Unreachable, match="run"):
            await api.poll("r", 1)


async def test_an_archive_is_unchanged_and_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(answer(200, b"\x1f\x8b\x00\xff", "application/gzip")) as (api, _):
        assert await api.script_archive("s") == b"\x1f\x8b\x00\xff"
        monkeypatch.setattr(policy, "RESPONSE_LIMIT_BYTES", 3)
        with pytest.raises(Unreachable, match="larger than 3 bytes"):
            await api.script_archive("s")


async def test_a_response_that_never_ends_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "CONTROL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(policy, "CONNECT_TIMEOUT_S", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with listening(drip) as api:
        with pytest.raises(Unreachable, match="TimeoutError"):
            await api.heartbeat("r")


@pytest.mark.parametrize(
    "beside", [{"stop_sessions": None}, {"stop_sessions": 5}, {"deregistered": "x", "a": []}, {"approvals": "x"}]
)
async def test_invalid_fields_beside_a_run_do_not_lose_it(beside: dict[str, Any]) -> None:
    async with answering(answer(200, {"run": {"run_id": "run_1", "session_id": "ses_1"}} | beside)) as (api, _):
        polled = await api.poll("r", 1)
    assert isinstance(polled.run, wire.Run)
    assert (polled.run.run_id, polled.stop_sessions, polled.deregistered) == ("run_1", (), False)


async def test_a_name_too_long_for_a_url_is_a_final_error() -> None:
    async with answering(answer(200, {"ok": True})) as (api, coordinator):
        with pytest.raises(Refused, match="makes no URL"):
            await api.stop_run("x" * 100_000)
    assert coordinator.targets == []


async def test_reports_do_not_delay_the_poll() -> None:
    reports_held, released = asyncio.Semaphore(0), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            reports_held.release()
            await released.wait()
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with listening(serve) as api:
        reports = [asyncio.create_task(api.deliver("/report", b"{}")) for _ in range(REPORT_CONNECTIONS + 20)]
        for _ in range(REPORT_CONNECTIONS):
            await reports_held.acquire()
        assert await asyncio.wait_for(api.poll("r", 1), PATIENCE_S) == Polled()
        released.set()
        assert all(isinstance(fault, Unreachable) for fault in await asyncio.gather(*reports, return_exceptions=True))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8765",
        "ftp://host",
        "http://",
        "http://:80",
        "http://host:0",
        "http://host:port",
        "http://host:70000",
        "http://[::1",
        "http://ho\tst",
        "http://h\x00",
        "http://xn--",
        "http://é..x",
        "http://999.1.1.1",
        "http://h\ud800",
        "http://host?a=b",
        "http://host#part",
    ],
)
def test_an_invalid_coordinator_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="expected http://HOST") as refused:
        checked_url(url)
    str(refused.value).encode()


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8765", "https://a.example/base", "http://[::1]:80", "http://user:word@host", "HTTP://HOST"],
)
def test_only_the_final_slash_of_a_url_is_removed(url: str) -> None:
    assert checked_url(url) == checked_url(url + "/") == url


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "a?b#c", "%2e%2e", "\n", "ü", "caf\udce9", "\ud800"])
def test_a_name_stays_one_segment_of_its_path(name: str) -> None:
    path = httpx.URL(f"http://host/agents/{path_segment(name)}/end").raw_path.decode()
    assert re.fullmatch("/agents/[^/?#]+/end", path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "bogus://proxy:1"), ("ALL_PROXY", "http://[::1"), ("SSL_CERT_FILE", "/nowhere")],
)
def test_an_invalid_environment_is_a_usage_error(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=rf"\b{variable}\b.* cannot be used: "):
        CoordinatorApi("https://coordinator.example")
    CoordinatorApi("http://localhost:8765")


@pytest.mark.parametrize(
    ("call", "options"),
    [
        # Commands wait for a slow coordinator; the poller waits for its look-ups.
        (lambda api: api.agent("a"), {}),
        (lambda api: api.agent_definition("a"), {"timeout_s": CONTROL_TIMEOUT_S, "control": True}),
        (lambda api: api.client_requests(), {"timeout_s": CONTROL_TIMEOUT_S, "control": True}),
        (lambda api: api.held("r", "claimed"), {"timeout_s": CONTROL_TIMEOUT_S, "control": True}),
    ],
)
async def test_only_the_runner_s_look_ups_have_the_short_time_limit(
    call: Call, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[dict[str, Any]] = []

    async def refuse(_transport: Transport, *_: object, **given: Any) -> ApiResponse:
        received.append(given)
        raise Refused("no", 404)

    monkeypatch.setattr(Transport, "call", refuse)
    async with CoordinatorApi("http://localhost") as api:
        with pytest.raises(Refused):
            await call(api)
    assert received == [options]
