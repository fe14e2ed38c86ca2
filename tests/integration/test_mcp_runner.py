"""The MCP server of a runner: its address, and its independence of the runner's other work."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.config.budgets import ChildLimits
from fsm_runner.coordinator_client.policy import REPORT_CONNECTIONS
from fsm_runner.http_server.listener import PortInUse, listen
from tests.support import faults
from tests.support.command_executor import AGENT, command_home, scripted_bench
from tests.support.mcp import TOOL_NAMES, call, mcp_client
from tests.support.runner import open_system


async def free_port() -> int:
    with await listen("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_slow_tool_calls_do_not_delay_reports(tmp_path: Path) -> None:
    released = asyncio.Event()
    port = await free_port()
    async with scripted_bench(tmp_path, mcp_port=port) as at_work, mcp_client(f"http://127.0.0.1:{port}/mcp") as client:
        at_work.proxy.fault("GET", "/sessions", faults.hold(released), times=None)
        calls = [asyncio.create_task(call(client, "list_agent_sessions")) for _ in range(REPORT_CONNECTIONS + 5)]
        await at_work.proxy.seen("GET", "/sessions", REPORT_CONNECTIONS)
        await at_work.completes(await at_work.start(["bind"], ["report"]))
        released.set()
        assert all("sessions" in answer for answer in await asyncio.gather(*calls))


async def test_the_tools_are_served_on_the_configured_port(tmp_path: Path) -> None:
    port = await free_port()
    async with scripted_bench(tmp_path, mcp_port=port), mcp_client(f"http://127.0.0.1:{port}/mcp") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOL_NAMES


async def test_a_runner_whose_mcp_port_is_taken_does_not_start(tmp_path: Path) -> None:
    with await listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        async with open_system(tmp_path) as system:
            with pytest.raises(PortInUse, match=str(port)):
                async with system.running(command_home(tmp_path / "home"), mcp_port=port):
                    pass


async def test_the_profile_bounds_the_sessions_that_a_session_starts_here_and_at_the_gateway(tmp_path: Path) -> None:
    port = await free_port()
    home = command_home(tmp_path / "home", children=ChildLimits(max_count=2))
    async with scripted_bench(tmp_path, home, mcp_port=port) as at_work:
        root = await at_work.start(["bind"], ["start", AGENT, [["report"]]], ["report"])
        assert (await at_work.completes(root))["answers"] == [200, 201]
        async with mcp_client(f"http://127.0.0.1:{port}/mcp", X_Agent_Session_Id=root.session_id) as client:
            start = {"agent_name": AGENT, "parameters": {"steps": [["report"]]}}
            assert (await call(client, "start_agent_session", **start))["result_data"]["turns"] == 1
            refusal = await call(client, "start_agent_session", **start)
            assert "2 of at most 2 sessions have been started" in refusal["error"]
        again = await at_work.resume(root, ["start", AGENT, []], ["report"])
        assert (await at_work.completes(again))["answers"][2:] == [201, 403]


async def test_an_external_server_replaces_it(tmp_path: Path) -> None:
    url = "http://mcp.example/mcp"
    async with scripted_bench(tmp_path, external_mcp_url=url) as at_work:
        values = at_work.runner.actor._runs._context.runner_values("ses_1")
        assert values == {"${runner.orchestrator_mcp_url}": url}
