"""Mode `sync`: how a call waits, and how a wait ends before its run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import msgspec
import pytest
from mcp.client.client import Client

from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.util.retry import RetryPolicy
from tests.support.faults import Answer, Kind, hold_request, html, instead, reset, status
from tests.support.mcp import (
    HANDSHAKE,
    MODERN,
    QUICK,
    Line,
    RecordingApi,
    mcp_client,
    mcp_server,
    said,
    until_a_call_waits,
    until_nothing_waits,
)
from tests.support.runner import System, Waiter, running, waiter
from tests.support.watch import AT_ONCE_S, PATIENCE_S

RUN = r"/runs/run_[^/]+"
STREAM = r"/sse/sessions"
NEVER = RetryPolicy(base_s=1e9, cap_s=1e9)
DEAF = msgspec.structs.replace(QUICK, stream=NEVER)
BLIND = msgspec.structs.replace(QUICK, look_up=NEVER)
"""Only events wake a call."""
MANY_LOOK_UPS = 20
"""More than the events of a run of one turn."""


class WaitingCall:
    """An agent that waits for its gate, and a client that starts it."""

    def __init__(self, system: System, gate: Waiter, server: McpServer, client: Client) -> None:
        self.system, self.gate, self.server, self.client = system, gate, server, client

    def begin(self, **settings: Any) -> asyncio.Task[Any]:
        arguments = {"parameters": self.gate.parameters, "agent_name": "wait"}
        return asyncio.create_task(self.client.call_tool("start_agent_session", arguments, **settings))

    async def waits(self, **settings: Any) -> asyncio.Task[Any]:
        """Start a call and return it when its run is executing."""
        calling = self.begin(**settings)
        await self.gate.started.line()
        return calling

    async def goes_through(self, calling: asyncio.Task[Any]) -> None:
        """End the run and check the result of the call."""
        self.gate.gate.write_line()
        assert said(await asyncio.wait_for(calling, PATIENCE_S))["result_data"] == {"heard": "go"}
        await until_nothing_waits()


@asynccontextmanager
async def waiting(
    folder: Path, limits: Limits = QUICK, protocol: str = MODERN, *, proxied: bool = False
) -> AsyncIterator[WaitingCall]:
    """`proxied`: the MCP server talks to the coordinator through the proxy that injects faults."""
    async with (
        running(folder) as (system, _),
        waiter(folder) as gate,
        mcp_server(system.proxy.url if proxied else system.server.url, limits) as server,
        mcp_client(server.url, protocol, X_Agent_Session_Id="ses_parent") as client,
    ):
        yield WaitingCall(system, gate, server, client)


@asynccontextmanager
async def recorded(folder: Path, limits: Limits) -> AsyncIterator[tuple[WaitingCall, RecordingApi]]:
    async with running(folder) as (system, _), waiter(folder) as gate:
        api = RecordingApi(system.server.url)
        async with api, McpServer(api, open_to_all=True, limits=limits) as server, mcp_client(server.url) as client:
            yield WaitingCall(system, gate, server, client), api


async def test_an_event_wakes_a_call_before_its_next_look_up(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(BLIND, look_up_spacing_s=0)
    async with recorded(tmp_path, limits) as (call_setup, api):
        calling = await call_setup.waits()
        await api.has_reported("running")
        await call_setup.goes_through(calling)
        assert len(api.looked_up) < MANY_LOOK_UPS


async def test_a_stream_without_a_response_delays_nothing(tmp_path: Path) -> None:
    async with waiting(tmp_path, proxied=True) as call_setup:
        call_setup.system.proxy.fault("GET", STREAM, hold_request(asyncio.Event()), None)
        await call_setup.goes_through(await call_setup.waits())


@pytest.mark.parametrize(
    "kind",
    [
        status(404),
        html(),
        reset(),
        instead("ends at once", Answer(200, b"event: init\ndata: {}\n\nevent: x\nda", "text/event-stream")),
    ],
    ids=lambda kind: kind.name,
)
async def test_without_a_stream_the_run_is_looked_up(tmp_path: Path, kind: Kind) -> None:
    async with waiting(tmp_path, DEAF, proxied=True) as call_setup:
        call_setup.system.proxy.fault("GET", STREAM, kind, None)
        calling = await call_setup.waits()
        seen = len(call_setup.system.proxy.calls_for("GET", RUN))
        await call_setup.system.proxy.seen("GET", RUN, seen + 3)
        await call_setup.goes_through(calling)


async def test_a_stream_that_was_refused_is_tried_again(tmp_path: Path) -> None:
    async with waiting(tmp_path, proxied=True) as call_setup:
        call_setup.system.proxy.fault("GET", STREAM, status(503), None)
        calling = await call_setup.waits()
        await call_setup.system.proxy.seen("GET", STREAM, 3)
        await call_setup.goes_through(calling)


async def test_with_a_silent_stream_the_run_is_looked_up_regularly(tmp_path: Path) -> None:
    async with recorded(tmp_path, msgspec.structs.replace(BLIND, recheck_s=0.05)) as (call_setup, api):
        calling = await call_setup.waits()
        await api.has_reported("running")
        # Only a change inside the running server can make a stream fall silent.
        bus = call_setup.system.server.coordinator.event_bus
        for subscription in bus._subscriptions:
            subscription._session_id = "ses_none"
        await api.reports_next("running", times=3)
        await call_setup.goes_through(calling)


async def test_an_outage_does_not_end_a_wait(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (system, _),
        waiter(tmp_path) as gate,
        Line(system.server.url) as line,
        mcp_server(line.url) as server,
        mcp_client(server.url) as client,
    ):
        calling = await WaitingCall(system, gate, server, client).waits()
        await line.cut()
        gate.gate.write_line()
        [run] = await system.api.runs()
        await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
        assert not calling.done()
        line.restore()
        assert said(await asyncio.wait_for(calling, PATIENCE_S))["result_data"] == {"heard": "go"}


@pytest.mark.parametrize("kind", [reset(), html(), status(503), status(401)], ids=lambda kind: kind.name)
async def test_errors_of_the_coordinator_do_not_end_a_wait(tmp_path: Path, kind: Kind) -> None:
    async with waiting(tmp_path, DEAF, proxied=True) as call_setup:
        call_setup.system.proxy.fault("GET", STREAM, status(404), None)
        call_setup.system.proxy.fault("GET", RUN, kind, 3)
        call_setup.system.proxy.fault("GET", r"/sessions/[^/]+/result", kind, 2)
        await call_setup.goes_through(await call_setup.waits())


async def test_a_run_that_the_coordinator_has_lost_ends_the_wait(tmp_path: Path) -> None:
    async with waiting(tmp_path, DEAF, proxied=True) as call_setup:
        call_setup.system.proxy.fault("GET", STREAM, status(404), None)
        calling = await call_setup.waits()
        call_setup.system.proxy.fault("GET", RUN, status(404, "Run not found"), None)
        answer = said(await asyncio.wait_for(calling, PATIENCE_S))
        [run] = await call_setup.system.api.runs()
        assert answer == {"error": "Run not found", "session_id": run.session_id}


async def test_the_time_limit_error_names_the_session(tmp_path: Path) -> None:
    async with waiting(tmp_path, msgspec.structs.replace(QUICK, sync_limit_s=0.3)) as call_setup:
        answer = said(await asyncio.wait_for(await call_setup.waits(), PATIENCE_S))
        [run] = await call_setup.system.api.runs("running")
        assert answer["session_id"] == run.session_id
        assert "within 0.3 seconds" in answer["error"]
        await until_nothing_waits()
        call_setup.gate.gate.write_line()


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_progress_is_reported_to_clients_that_ask_for_it(tmp_path: Path, protocol: str) -> None:
    received: list[tuple[float, str | None]] = []
    enough = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        received.append((progress, message))
        if len(received) >= 3 and "status running" in str(message):
            enough.set()

    limits = msgspec.structs.replace(QUICK, progress_interval_s=0.15)
    async with waiting(tmp_path, limits, protocol) as call_setup:
        calling = await call_setup.waits(progress_callback=hear)
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
        await call_setup.goes_through(calling)
    assert received[-1][1] == f"running for {received[-1][0]:.0f} s (status running)"
    assert [progress for progress, _ in received] == sorted({progress for progress, _ in received})


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_a_cancelled_call_ends_the_wait_but_not_the_run(tmp_path: Path, protocol: str) -> None:
    async with waiting(tmp_path, protocol=protocol) as call_setup:
        calling = await call_setup.waits()
        await until_a_call_waits()
        calling.cancel()
        await until_nothing_waits()
        call_setup.gate.gate.write_line()
        [run] = await call_setup.system.api.runs()
        await call_setup.system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")


async def test_a_client_that_is_killed_ends_the_wait(tmp_path: Path) -> None:
    async with waiting(tmp_path) as call_setup:
        arguments = {"parameters": call_setup.gate.parameters, "agent_name": "wait"}
        call = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "start_agent_session", "arguments": arguments},
        }
        accept = {"accept": "application/json, text/event-stream"}
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            http.stream("POST", call_setup.server.url, json=call, headers=accept),
        ):
            await call_setup.gate.started.line()
            await until_a_call_waits()
        await until_nothing_waits()
        call_setup.gate.gate.write_line()


async def test_a_cancellation_does_not_affect_calls_of_other_clients_with_the_same_id(tmp_path: Path) -> None:
    async with waiting(tmp_path, protocol=HANDSHAKE) as call_setup:
        calling = await call_setup.waits()
        async with httpx.AsyncClient(trust_env=False) as http:
            for session_id in (None, "ses_other"):
                for request_id in range(10):
                    params = {"requestId": request_id}
                    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
                    accept = {"accept": "application/json, text/event-stream"}
                    named = {"x-agent-session-id": session_id} if session_id else {}
                    answer = await http.post(call_setup.server.url, json=notice, headers={**accept, **named})
                    assert answer.status_code == 202
        await call_setup.goes_through(calling)


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_a_stopping_server_answers_waiting_calls(tmp_path: Path, protocol: str) -> None:
    async with waiting(tmp_path, protocol=protocol) as call_setup:
        calling = await call_setup.waits()
        began = monotonic()
        await call_setup.server.aclose()
        assert monotonic() - began < AT_ONCE_S
        assert "shutting down" in said(await asyncio.wait_for(calling, AT_ONCE_S))["error"]
        await until_nothing_waits()
        await call_setup.server.aclose()
        call_setup.gate.gate.write_line()
