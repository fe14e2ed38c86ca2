"""The depth and the number of the sessions that executors start are bounded, through the gateway and the MCP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from fsm_runner.config.budgets import ChildLimits
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.journal.journal import Journal
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.runtime.control.children import Children
from fsm_runner.runtime.control.session_trees import SessionTrees
from tests.support import faults
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator
from tests.support.gateway import EndpointFactory, executor_at, gateway_to
from tests.support.mcp import QUICK, call, mcp_client
from tests.support.proxy import FaultProxy

START = {"type": "start_session", "parameters": {"prompt": "go"}}


class Bench(NamedTuple):
    """A gateway and an MCP server with the same bounds, in front of one coordinator without a runner."""

    coordinator: EmbeddedCoordinator
    proxy: FaultProxy
    mcp: McpServer
    endpoints: EndpointFactory
    trees: SessionTrees
    root: str
    """A session without a parent."""

    async def ask_gateway(self, caller: str, **fields: Any) -> httpx.Response:
        async with executor_at(self.endpoints.endpoint(caller)) as http:
            return await http.post("/runs", json={**START, **fields})

    async def ask_mcp(self, session_id: str) -> dict[str, Any]:
        async with mcp_client(self.mcp.url_of(session_id)) as client:
            arguments = {"parameters": {"prompt": "go"}, "mode": "async_poll"}
            answer: dict[str, Any] = await call(client, "start_agent_session", **arguments)
            return answer

    async def start(self, session_id: str) -> str:
        """Start a child through the gateway."""
        answer = await self.ask_gateway(session_id)
        assert answer.status_code == 201, answer.text
        child: str = answer.json()["session_id"]
        return child

    async def sessions(self) -> int:
        return len((await self.coordinator.http.get("/sessions")).json()["sessions"])


@asynccontextmanager
async def bench(*, max_depth: int = 5, max_count: int = 100) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        coordinator = await stack.enter_async_context(embedded_coordinator())
        await coordinator.register(**autonomous())
        proxy = await stack.enter_async_context(FaultProxy(coordinator.server.url))
        api = await stack.enter_async_context(CoordinatorApi(proxy.url))
        journal = Journal(None)
        stack.push_async_callback(journal.aclose)
        trees = SessionTrees(journal, api.parent_of)
        children = Children(ChildLimits(max_depth=max_depth, max_count=max_count), trees)
        mcp = await stack.enter_async_context(McpServer(api, open_to_all=True, limits=QUICK, child_bounds=children))
        endpoints = await stack.enter_async_context(gateway_to(proxy.url, child_bounds=children))
        root = (await coordinator.prompt())["session_id"]
        yield Bench(coordinator, proxy, mcp, endpoints, trees, root)
        assert len(trees) == 0


async def test_the_depth_is_bounded_through_the_gateway_and_the_mcp_server() -> None:
    async with bench(max_depth=2) as b:
        child = await b.start(b.root)
        grandchild = (await b.ask_mcp(child))["session_id"]
        answer = await b.ask_gateway(grandchild)
        reason = (
            "This session may not start other sessions: 2 sessions are above it, and sessions may be nested 2 deep "
            "(children.max_depth). Do the work in this session instead."
        )
        assert (answer.status_code, answer.json()) == (403, {"detail": reason})
        assert await b.ask_mcp(grandchild) == {"error": reason}
        assert await b.sessions() == 3


async def test_the_place_of_a_session_of_another_runner_is_looked_up() -> None:
    async with bench(max_depth=2) as b:
        child = (await b.coordinator.prompt(parent_session_id=b.root))["session_id"]
        grandchild = (await b.coordinator.prompt(parent_session_id=child))["session_id"]
        assert (await b.ask_gateway(grandchild)).status_code == 403
        assert "children.max_depth" in (await b.ask_mcp(grandchild))["error"]
        assert (await b.ask_gateway(child)).status_code == 201


async def test_the_number_is_bounded_through_the_gateway_and_the_mcp_server_together() -> None:
    async with bench(max_count=3) as b:
        child = await b.start(b.root)
        await b.ask_mcp(b.root)
        await b.ask_mcp(child)
        answer = await b.ask_gateway(child)
        assert answer.status_code == 403
        assert answer.json()["detail"] == (
            f"This session may not start other sessions: 3 of at most 3 sessions have been started below session "
            f"{b.root} (children.max_count). Resume one of them, or do the work in this session instead."
        )
        assert (await b.ask_mcp(b.root)) == {"error": answer.json()["detail"]}
        assert await b.sessions() == 4


async def test_parallel_starts_together_stay_within_the_number() -> None:
    async with bench(max_count=4) as b:
        async with asyncio.TaskGroup() as group:
            over_http = [group.create_task(b.ask_gateway(b.root)) for _ in range(6)]
            over_mcp = [group.create_task(b.ask_mcp(b.root)) for _ in range(6)]
        started = sum(task.result().status_code == 201 for task in over_http)
        started += sum("session_id" in task.result() for task in over_mcp)
        assert started == 4
        assert await b.sessions() == 5


@pytest.mark.parametrize("fault", [faults.status(500), faults.reset(), faults.status(409)], ids=lambda kind: kind.name)
async def test_a_start_that_fails_at_the_coordinator_gives_its_place_back(fault: faults.Kind) -> None:
    async with bench(max_count=1) as b:
        for _ in range(2):
            b.proxy.fault("POST", "/runs", fault)
            assert (await b.ask_gateway(b.root)).status_code >= 400
            b.proxy.fault("POST", "/runs", fault)
            assert "error" in await b.ask_mcp(b.root)
        invalid = await b.ask_gateway(b.root, parameters={})
        assert invalid.status_code == 400, "refused by the coordinator itself"
        await b.start(b.root)
        assert (await b.ask_gateway(b.root)).status_code == 403


async def test_without_the_place_of_its_session_no_child_is_started() -> None:
    async with bench() as b:
        b.proxy.fault("GET", f"/sessions/{b.root}", faults.status(500), times=None)
        answer = await b.ask_gateway(b.root)
        assert (answer.status_code, answer.json()["detail"]) == (
            502,
            "The Agent Coordinator cannot be reached at the moment",
        )
        assert "cannot be reached" in (await b.ask_mcp(b.root))["error"]
        assert await b.sessions() == 1
        b.proxy.heal()
        await b.start(b.root)


async def test_resumes_do_not_count() -> None:
    async with bench(max_count=1) as b:
        child = await b.start(b.root)
        resume = {"type": "resume_session", "session_id": child}
        for _ in range(3):
            assert (await b.ask_gateway(b.root, **resume)).status_code == 201
        async with mcp_client(b.mcp.url_of(b.root)) as client:
            arguments = {"session_id": child, "parameters": {"prompt": "go"}, "mode": "async_poll"}
            assert (await call(client, "resume_agent_session", **arguments))["status"] == "pending"


async def test_a_client_without_a_session_has_no_bounds() -> None:
    async with bench(max_depth=0, max_count=0) as b, mcp_client(b.mcp.url) as client:
        arguments = {"parameters": {"prompt": "go"}, "mode": "async_poll"}
        assert (await call(client, "start_agent_session", **arguments))["status"] == "pending"
        assert "children.max_depth" in (await b.ask_mcp(b.root))["error"]
