"""A real embedded coordinator on a real socket, and a client of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from fsm_runner.coordinator_server.coordinator import Coordinator
from fsm_runner.coordinator_server.registry import WaitingPoll
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from tests.support.watch import PATIENCE_S

HELD_FOR_LONG = Timings(poll_timeout_s=10 * PATIENCE_S, tick_interval_s=10 * PATIENCE_S)
"""Longer than a test waits, so that a poll which no event wakes fails its test."""

ECHO_AGENT = {
    "name": "echo",
    "description": "Repeats the message.",
    "command": "scripts/echo",
    "parameters_schema": {
        "type": "object",
        "properties": {"message": {"type": "string"}},
        "required": ["message"],
        "additionalProperties": False,
    },
}


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class EmbeddedCoordinator:
    """A coordinator and an HTTP client."""

    def __init__(self, server: CoordinatorServer, http: httpx.AsyncClient) -> None:
        self.server = server
        self.http = http

    @property
    def inside(self) -> Coordinator:
        return self.server.coordinator

    async def register(self, **overrides: Any) -> str:
        answer = await self.http.post("/runner/register", json=registration(**overrides))
        assert answer.status_code == 200, answer.text
        runner_id: str = answer.json()["runner_id"]
        return runner_id

    async def submit(self, message: str = "hello", **fields: Any) -> dict[str, Any]:
        body = {"type": "start_session", "agent_name": "echo", "parameters": {"message": message}, **fields}
        answer = await self.http.post("/runs", json=body)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def prompt(self, **fields: Any) -> dict[str, Any]:
        """Submit a run without an agent."""
        return await self.submit(**{"agent_name": None, "parameters": {"prompt": "hi"}, **fields})

    async def poll(self, runner_id: str) -> httpx.Response:
        return await self.http.get("/runner/runs", params={"runner_id": runner_id})

    async def claim(self, runner_id: str) -> dict[str, Any]:
        answer = await self.poll(runner_id)
        assert answer.status_code == 200, answer.text
        run: dict[str, Any] = answer.json()["run"]
        return run

    async def held_poll(self, runner_id: str) -> asyncio.Task[httpx.Response]:
        """Start a poll, and return it when the coordinator holds it."""
        held_before = len(self._held(runner_id))
        poll = asyncio.create_task(self.poll(runner_id))
        async with asyncio.timeout(PATIENCE_S):
            while len(self._held(runner_id)) == held_before:  # noqa: ASYNC110 - the program has no event for this
                await asyncio.sleep(0)
        return poll

    async def until_held(self, runner_id: str, polls: int) -> None:
        """Return when the coordinator holds this number of polls."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self._held(runner_id)) != polls:  # noqa: ASYNC110 - the program has no event for this
                await asyncio.sleep(0)

    async def until_nothing_is_held(self, runner_id: str) -> None:
        await self.until_held(runner_id, 0)

    async def report(self, run: dict[str, Any], kind: str, runner_id: str, **fields: Any) -> httpx.Response:
        return await self.http.post(f"/runner/runs/{run['run_id']}/{kind}", json={"runner_id": runner_id, **fields})

    async def bind(self, run: dict[str, Any], **overrides: Any) -> httpx.Response:
        body = {"executor_session_id": "exe-1", "hostname": "host", "executor_profile": "echo", **overrides}
        return await self.http.post(f"/sessions/{run['session_id']}/bind", json=body)

    async def event(self, run: dict[str, Any], **fields: Any) -> httpx.Response:
        body = {"event_type": "message", "session_id": run["session_id"], "timestamp": "2026-01-01T00:00:00Z", **fields}
        return await self.http.post(f"/sessions/{run['session_id']}/events", json=body)

    async def run_status(self, run: dict[str, Any]) -> str:
        status: str = (await self.http.get(f"/runs/{run['run_id']}")).json()["status"]
        return status

    async def session(self, run: dict[str, Any]) -> dict[str, Any]:
        session: dict[str, Any] = (await self.http.get(f"/sessions/{run['session_id']}")).json()["session"]
        return session

    def _held(self, runner_id: str) -> set[WaitingPoll]:
        runner = self.inside.registry.get(runner_id)
        return set() if runner is None else runner.held_polls


def registration(**overrides: Any) -> dict[str, Any]:
    return {
        "hostname": "host",
        "project_dir": "/work",
        "executor_profile": "echo",
        "executor": {"type": "procedural", "command": "executors/procedural", "config": {"limit": 1}},
        "tags": [],
        "require_matching_tags": False,
        "agents": [ECHO_AGENT],
        **overrides,
    }


def autonomous(**overrides: Any) -> dict[str, Any]:
    """Return overrides for a runner that accepts runs without an agent."""
    return {"executor": {"type": "autonomous", "command": "executors/claude-code"}, "agents": [], **overrides}


@asynccontextmanager
async def embedded_coordinator(timings: Timings = HELD_FOR_LONG, **settings: Any) -> AsyncIterator[EmbeddedCoordinator]:
    async with CoordinatorServer(port=0, timings=timings, **settings) as server:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as http:
            yield EmbeddedCoordinator(server, http)


class FencedRunner:
    """A runner that sends the number of its registration, as fsm-runner does."""

    def __init__(self, coordinator: EmbeddedCoordinator, registered: dict[str, Any]) -> None:
        self.coordinator = coordinator
        self.runner_id: str = registered["runner_id"]
        self.registration: int = registered["registration"]

    def headers(self, run: dict[str, Any] | None = None) -> dict[str, str]:
        """Return the headers of a call; `run` as it was claimed, if the call concerns one."""
        fenced = {"X-Runner-Registration": str(self.registration)}
        return fenced if run is None else {**fenced, "X-Run-Id": run["run_id"], "X-Run-Attempt": str(run["attempt"])}

    async def poll(self) -> httpx.Response:
        return await self.coordinator.http.get(
            "/runner/runs", params={"runner_id": self.runner_id}, headers=self.headers()
        )

    async def claim(self) -> dict[str, Any]:
        answer = await self.poll()
        assert answer.status_code == 200, answer.text
        run: dict[str, Any] = answer.json()["run"]
        return run

    async def report(self, run: dict[str, Any], kind: str, **fields: Any) -> httpx.Response:
        body = {"runner_id": self.runner_id, **fields}
        return await self.coordinator.http.post(
            f"/runner/runs/{run['run_id']}/{kind}", json=body, headers=self.headers(run)
        )

    async def heartbeat(self) -> httpx.Response:
        return await self.coordinator.http.post(
            "/runner/heartbeat", json={"runner_id": self.runner_id}, headers=self.headers()
        )

    async def writes(self, run: dict[str, Any]) -> list[httpx.Response]:
        """Return the responses to a bind, an event and a change of the session."""
        session, headers = f"/sessions/{run['session_id']}", self.headers(run)
        bind = {"executor_session_id": "exe-1", "hostname": "host", "executor_profile": "echo"}
        event = {"event_type": "message", "session_id": run["session_id"], "timestamp": "2026-01-01T00:00:00Z"}
        http = self.coordinator.http
        return [
            await http.post(f"{session}/bind", json=bind, headers=headers),
            await http.post(f"{session}/events", json=event, headers=headers),
            await http.patch(f"{session}/metadata", json={"last_resumed_at": "now"}, headers=headers),
        ]


async def fenced_runner(coordinator: EmbeddedCoordinator, **overrides: Any) -> FencedRunner:
    answer = await coordinator.http.post("/runner/register", json=registration(**overrides))
    assert answer.status_code == 200, answer.text
    return FencedRunner(coordinator, answer.json())
