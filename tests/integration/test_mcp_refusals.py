"""Errors and limits of the tools."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcp.types import TextContent

from tests.support.embedded import autonomous, embedded_coordinator
from tests.support.mcp import (
    HANDSHAKE,
    MODERN,
    QUICK,
    TOOL_NAMES,
    call,
    coordinator_and_client,
    finished,
    mcp_client,
    mcp_server,
)
from tests.support.runner import running, waiter


@pytest.mark.parametrize("demands", ["[1]", "{", "nothing", '{"a":' * 5000])
async def test_demands_that_are_not_an_object_are_an_error(demands: str) -> None:
    async with coordinator_and_client(X_Additional_Demands=demands) as (_, client):
        refused = await call(client, "start_agent_session", parameters={"prompt": "hi"})
        assert "X-Additional-Demands" in refused["error"]
        assert await call(client, "list_agent_sessions") == {"sessions": []}


async def test_a_callback_needs_a_session_to_resume() -> None:
    async with coordinator_and_client() as (_, client):
        refused = await call(client, "start_agent_session", parameters={"prompt": "hi"}, mode="async_callback")
        assert "X-Agent-Session-Id" in refused["error"]
        assert await call(client, "list_agent_sessions") == {"sessions": []}


async def test_a_session_that_cannot_be_resumed_is_an_error(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (system, _),
        mcp_server(system.server.url) as server,
        mcp_client(server.url) as client,
    ):
        one = await system.completes()
        refused = await call(client, "resume_agent_session", session_id=one.session_id, parameters={"text": "x"})
        unknown = await call(client, "resume_agent_session", session_id="ses_0", parameters={"text": "x"})
    assert "cannot be resumed" in refused["error"]
    assert unknown == {"error": "Session not found"}


async def test_a_run_that_fails_or_is_stopped_is_an_error_with_its_session(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (system, _),
        waiter(tmp_path) as gate,
        mcp_server(system.server.url) as server,
        mcp_client(server.url) as client,
    ):
        failed = await call(client, "start_agent_session", parameters={"code": "3"}, agent_name="fail")
        assert failed["error"] == "it broke\n--- stdout ---\non stdout\n(exit code 3)"
        assert await call(client, "get_agent_session_status", session_id=failed["session_id"]) == {"status": "failed"}
        arguments = {"parameters": gate.parameters, "agent_name": "wait"}
        calling = asyncio.create_task(call(client, "start_agent_session", **arguments))
        await gate.started.line()
        [run] = await system.api.runs("running")
        await system.api.stop_run(run.run_id)
        stopped = await calling
    assert stopped == {"error": "The session was stopped before it had a result.", "session_id": run.session_id}


async def test_errors_of_parameters_are_listed() -> None:
    async with coordinator_and_client() as (coordinator, client):
        await coordinator.register()
        refused = await call(client, "start_agent_session", parameters={"massage": "x"}, agent_name="echo")
    assert '"message" is a required property' in refused["error"]
    assert "massage" in refused["error"]
    assert refused["parameters_schema"]["required"] == ["message"]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("start_agent_session", {}, "missing required field `parameters`"),
        ("start_agent_session", {"parameters": "x"}, "Expected `object`, got `str` - at `$.parameters`"),
        ("start_agent_session", {"parameters": {}, "mode": "later"}, "'later' - at `$.mode`"),
        ("start_agent_session", {"parameters": {}, "agent": "x"}, "unknown field `agent`"),
        ("get_agent_session_status", {"session_id": ""}, "length >= 1 - at `$.session_id`"),
        ("stop_agent_session", {}, "The tools are: list_agent_blueprints"),
    ],
)
async def test_invalid_calls_get_the_reason(name: str, arguments: dict[str, Any], text: str) -> None:
    async with coordinator_and_client() as (_, client):
        assert text in (await call(client, name, **arguments))["error"]


@pytest.mark.parametrize("length", [100_000, 100_001])
async def test_parameters_have_a_limit(length: int) -> None:
    text = "ü" * (length - len('{"prompt":""}'))
    async with coordinator_and_client() as (_, client):
        answer = await call(client, "start_agent_session", parameters={"prompt": text}, mode="async_poll")
    if length == 100_000:
        assert answer["status"] == "pending"
    else:
        assert "100,001 characters" in answer["error"]


async def test_a_long_result_text_is_truncated_with_a_note() -> None:
    async with coordinator_and_client() as (coordinator, client):
        run = await finished(coordinator, await coordinator.register(**autonomous()), result_text="x" * 50_123)
        result = await call(client, "get_agent_session_result", session_id=run["session_id"])
    assert result["result_text"].startswith("x" * 50_000 + "\n")
    assert result["result_text"].endswith("[truncated: 123 more characters were omitted]")


async def test_a_result_too_large_for_clients_is_omitted_with_a_note() -> None:
    async with coordinator_and_client() as (coordinator, client):
        run = await finished(
            coordinator, await coordinator.register(**autonomous()), result_data={"x": "y" * 2_000_000}
        )
        result = await call(client, "get_agent_session_result", session_id=run["session_id"])
    assert result["result_data"] is None
    assert "2,000,008 characters" in result["note"]


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_a_deeply_nested_result_is_sent_as_text(protocol: str) -> None:
    data: dict[str, Any] = {}
    for _ in range(400):
        data = {"x": data}
    async with coordinator_and_client(protocol) as (coordinator, client):
        run = await finished(coordinator, await coordinator.register(**autonomous()), result_data=data)
        answer = await client.call_tool("get_agent_session_result", {"session_id": run["session_id"]})
    [block] = answer.content
    assert isinstance(block, TextContent)
    assert msgspec.json.decode(block.text)["result_data"] == data
    assert answer.structured_content is None


async def test_sync_calls_have_a_limit_in_number() -> None:
    limits = msgspec.structs.replace(QUICK, waiting_calls=1)
    async with (
        embedded_coordinator() as coordinator,
        mcp_server(coordinator.server.url, limits) as server,
        mcp_client(server.url) as client,
    ):
        first = asyncio.create_task(call(client, "start_agent_session", parameters={"prompt": "hi"}))
        runner_id = await coordinator.register(**autonomous())
        run = await coordinator.claim(runner_id)
        refused = await call(client, "start_agent_session", parameters={"prompt": "hi"})
        assert "async_poll" in refused["error"]
        await coordinator.report(run, "failed", runner_id, error="enough")
        assert (await first)["error"] == "enough"
        await call(client, "start_agent_session", parameters={"prompt": "hi"}, mode="async_poll")


async def test_one_session_cannot_use_all_sync_calls() -> None:
    limits = msgspec.structs.replace(QUICK, waiting_calls_of_a_session=1)
    prompt = {"prompt": "hi"}
    async with embedded_coordinator() as coordinator, mcp_server(coordinator.server.url, limits) as server:
        runner_id = await coordinator.register(**autonomous())
        parents = [(await coordinator.prompt())["session_id"] for _ in range(2)]
        for _ in parents:
            await coordinator.claim(runner_id)
        async with (
            mcp_client(server.url, X_Agent_Session_Id=parents[0]) as client,
            mcp_client(server.url, X_Agent_Session_Id=parents[1]) as other,
        ):
            waiting = [asyncio.create_task(call(client, "start_agent_session", parameters=prompt))]
            runs = [await coordinator.claim(runner_id)]
            assert (
                "1 of them of this session" in (await call(client, "start_agent_session", parameters=prompt))["error"]
            )
            waiting.append(asyncio.create_task(call(other, "start_agent_session", parameters=prompt)))
            runs.append(await coordinator.claim(runner_id))
            for run in runs:
                await coordinator.report(run, "failed", runner_id, error="enough")
            assert [(await each)["error"] for each in waiting] == ["enough", "enough"]


async def test_an_unreachable_coordinator_is_an_error_without_internals() -> None:
    async with (
        embedded_coordinator() as coordinator,
        mcp_server(coordinator.server.url) as server,
        mcp_client(server.url) as client,
    ):
        address = coordinator.server.url
        await coordinator.server.stop()
        arguments: dict[str, dict[str, Any]] = {
            "start_agent_session": {"parameters": {}},
            "resume_agent_session": {"session_id": "ses_0", "parameters": {}},
            "get_agent_session_status": {"session_id": "ses_0"},
            "get_agent_session_result": {"session_id": "ses_0"},
        }
        for name in TOOL_NAMES:
            refused = await call(client, name, **arguments.get(name, {}))
            assert refused["error"].startswith("The Agent Coordinator cannot be reached"), refused
            assert address not in refused["error"]
