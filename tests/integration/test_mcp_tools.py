"""Every tool of the MCP server in every mode, with the SDK's client, a real coordinator and real runners."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_client import api
from fsm_runner.protocol.wire import RunCreated
from tests.support.embedded import autonomous
from tests.support.home import make_home
from tests.support.mcp import (
    HANDSHAKE,
    MODERN,
    MODES,
    TOOL_NAMES,
    call,
    coordinator_and_client,
    finished,
    mcp_client,
    mcp_server,
    said,
)
from tests.support.runner import System, open_system, running, waiter


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
async def test_the_seven_tools_describe_their_arguments(protocol: str) -> None:
    async with coordinator_and_client(protocol) as (_, client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == TOOL_NAMES
    assert all(tool.description for tool in tools.values())
    start, resume = tools["start_agent_session"].input_schema, tools["resume_agent_session"].input_schema
    assert list(start["properties"]) == ["parameters", "agent_name", "project_dir", "mode"]
    assert start["required"] == ["parameters"]
    assert start["properties"]["parameters"]["type"] == "object"
    assert sorted(start["properties"]["mode"]["enum"]) == sorted(MODES)
    assert start["properties"]["mode"]["default"] == "sync"
    assert list(resume["properties"]) == ["session_id", "parameters", "mode"]
    assert resume["required"] == ["session_id", "parameters"]
    for name in ("get_agent_session_status", "get_agent_session_result"):
        assert tools[name].input_schema["required"] == ["session_id"]
    for name in ("list_agent_blueprints", "list_agent_sessions", "delete_all_agent_sessions"):
        assert tools[name].input_schema["properties"] == {}
    assert all(tool.input_schema["additionalProperties"] is False for tool in tools.values())
    destructive = [name for name, tool in tools.items() if tool.annotations and tool.annotations.destructive_hint]
    assert destructive == ["delete_all_agent_sessions"]


@pytest.mark.parametrize("protocol", [MODERN, HANDSHAKE])
@pytest.mark.parametrize("mode", MODES)
async def test_a_parent_session_starts_a_child_on_a_second_runner(tmp_path: Path, mode: str, protocol: str) -> None:
    parents, children = make_home(tmp_path / "parents"), make_home(tmp_path / "children")
    async with (
        open_system(tmp_path) as system,
        waiter(tmp_path) as gate,
        system.running(_only(parents, "wait", "first")),
        system.running(_only(children, "say", "second")),
        mcp_server(system.server.url) as server,
    ):
        parent = await system.submit("wait", **gate.parameters)
        await gate.started.line()
        async with mcp_client(server.url, protocol, X_Agent_Session_Id=parent.session_id) as client:
            arguments = {"parameters": {"text": "hello"}, "agent_name": "say", "mode": mode}
            started = said(await client.call_tool("start_agent_session", arguments))
            child = await _run_of(system, started["session_id"])
            if mode != "sync":
                assert started == {"session_id": child.session_id, "status": "pending"}
                await system.end(child)
                assert await call(client, "get_agent_session_status", session_id=child.session_id) == {
                    "status": "finished"
                }
                started = await call(client, "get_agent_session_result", session_id=child.session_id)
        assert started == {
            "session_id": child.session_id,
            "result_text": None,
            "result_data": {"said": "hello"},
        }
        run = await system.api.run(child.run_id)
        assert (run.parent_session_id, run.execution_mode, run.status) == (parent.session_id, mode, "completed")
        gate.gate.write_line()
        of_parent = await system.end(parent)
        assert of_parent.runner_id != run.runner_id


async def test_agents_are_listed_without_confidential_fields(tmp_path: Path) -> None:
    agent = {
        "name": "helper",
        "description": "Helps.",
        "type": "autonomous",
        "tags": ["a", "b"],
        "parameters_schema": {"type": "object"},
        "output_schema": {"type": "object", "title": "out"},
        "system_prompt": "secret",
        "mcp_servers": {"x": {"url": "http://x", "config": {"Authorization": "secret"}}},
    }
    (tmp_path / "helper.json").write_bytes(msgspec.json.encode(agent))
    async with coordinator_and_client(agents_dir=tmp_path) as (_, client):
        [shown] = await call(client, "list_agent_blueprints")
    kept = ("name", "description", "type", "parameters_schema", "output_schema", "tags")
    assert shown == {key: agent[key] for key in kept}


@pytest.mark.parametrize(
    ("tags", "names"), [("a", ["both", "one"]), ("a , b,,", ["both"]), ("a,zß", []), ("", ["both", "none", "one"])]
)
async def test_the_tags_header_selects_the_agents(tmp_path: Path, tags: str, names: list[str]) -> None:
    for name, has in (("both", ["a", "b"]), ("one", ["a"]), ("none", [])):
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode({"name": name, "type": "autonomous", "tags": has}))
    async with coordinator_and_client(agents_dir=tmp_path, X_Agent_Tags=tags.encode()) as (_, client):
        assert [agent["name"] for agent in await call(client, "list_agent_blueprints")] == names


async def test_the_demands_header_applies_to_a_start() -> None:
    demands = {"tags": ["gpu"], "hostname": "bürö"}
    async with coordinator_and_client(X_Additional_Demands=msgspec.json.encode(demands)) as (coordinator, client):
        arguments = {"parameters": {"prompt": "hi"}, "project_dir": "/somewhere", "mode": "async_poll"}
        await call(client, "start_agent_session", **arguments)
        [run] = (await coordinator.http.get("/runs")).json()["runs"]
    assert (run["demands"]["tags"], run["demands"]["hostname"]) == (["gpu"], "bürö")
    assert run["project_dir"] == "/somewhere"


@pytest.mark.parametrize("mode", MODES)
async def test_a_session_is_resumed(mode: str) -> None:
    async with coordinator_and_client(X_Agent_Session_Id="ses_parent") as (coordinator, client):
        runner_id = await coordinator.register(**autonomous())
        first = await finished(coordinator, runner_id, result_text="one")
        session_id = first["session_id"]
        calling = asyncio.create_task(
            call(client, "resume_agent_session", session_id=session_id, parameters={"prompt": "more"}, mode=mode)
        )
        run = await coordinator.claim(runner_id)
        assert (run["type"], run["session_id"], run["parameters"]) == ("resume_session", session_id, {"prompt": "more"})
        assert (run["execution_mode"], run["parent_session_id"]) == (mode, "ses_parent")
        await coordinator.report(run, "started", runner_id)
        await coordinator.event(run, event_type="result", result_text="two", timestamp="2027-01-01T00:00:00Z")
        await coordinator.report(run, "completed", runner_id, status="success", session_status="idle")
        expected = {"session_id": session_id, "result_text": "two", "result_data": None}
        if mode != "sync":
            assert await calling == {"session_id": session_id, "status": "pending"}
            assert await call(client, "get_agent_session_status", session_id=session_id) == {"status": "idle"}
            assert await call(client, "get_agent_session_result", session_id=session_id) == expected
        else:
            assert await calling == expected


async def test_sessions_are_listed_queried_and_deleted(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (system, _),
        waiter(tmp_path) as gate,
        mcp_server(system.server.url) as server,
        mcp_client(server.url) as client,
    ):
        done = await system.completes()
        at_work = await system.submit("wait", **gate.parameters)
        await gate.started.line()
        sessions = (await call(client, "list_agent_sessions"))["sessions"]
        assert {each["session_id"]: (each["agent_name"], each["status"]) for each in sessions} == {
            done.session_id: ("say", "finished"),
            at_work.session_id: ("wait", "running"),
        }
        unfinished = await call(client, "get_agent_session_result", session_id=at_work.session_id)
        assert unfinished == {"error": "Session not finished", "session_id": at_work.session_id}
        skipped = {"deleted": 1, "skipped": 1, "skipped_session_ids": [at_work.session_id]}
        assert await call(client, "delete_all_agent_sessions") == skipped
        status = await call(client, "get_agent_session_status", session_id=done.session_id)
        assert status == {"status": "not_existent"}
        gate.gate.write_line()
        await system.end(at_work)


async def test_all_pages_of_sessions_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE_LIMIT", 2)
    async with coordinator_and_client() as (coordinator, client):
        for _ in range(5):
            await coordinator.prompt()
        expected = {"deleted": 5, "skipped": 0, "skipped_session_ids": []}
        assert await call(client, "delete_all_agent_sessions") == expected


async def test_a_run_that_completes_without_a_result_has_an_empty_one() -> None:
    async with coordinator_and_client() as (coordinator, client):
        runner_id = await coordinator.register(**autonomous())
        calling = asyncio.create_task(call(client, "start_agent_session", parameters={"prompt": "hi"}))
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "completed", runner_id, status="success", session_status="finished")
        assert await calling == {"session_id": run["session_id"], "result_text": None, "result_data": None}


def _only(profile: Any, agent_name: str, profile_name: str) -> Any:
    """Return the profile with another name and one agent: runners cannot share either."""
    agents = tuple(agent for agent in profile.agents if agent.name == agent_name)
    return msgspec.structs.replace(profile, name=profile_name, agents=agents)


async def _run_of(system: System, session_id: str) -> RunCreated:
    [run] = [run for run in await system.api.runs() if run.session_id == session_id]
    return RunCreated(run_id=run.run_id, session_id=session_id, status=run.status)
