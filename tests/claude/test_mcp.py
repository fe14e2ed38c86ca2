"""Tools of MCP servers over HTTP, such as the runner's own server, through which a model starts other agents."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.runtime.blueprint import MCP_URL_PLACEHOLDER
from tests.support.claude import ClaudeBench, claude
from tests.support.home import make_home
from tests.support.messages_api import Calls, Held, Says
from tests.support.serving import serving_raw

SERVER = {"url": MCP_URL_PLACEHOLDER, "config": {"X-Agent-Tags": "", "X-Additional-Demands": "${params.demands}"}}
AGENTS = {"conductor": {"mcp_servers": {"orchestrator": SERVER}, "parameters_schema": {"type": "object"}}}
START = "mcp__orchestrator__start_agent_session"


def needs(url: str) -> dict[str, dict[str, object]]:
    """Return an agent with an MCP server at the URL."""
    return {"needy": {"mcp_servers": {"far": {"url": url}}}}


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that accepts connections, and closes them without a response once the event is set."""
    released = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    async with serving_raw(serve) as url:
        try:
            yield f"{url}/mcp", released
        finally:
            released.set()


async def test_a_server_that_fails_is_a_status_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with claude(tmp_path, monkeypatch, agents=needs("http://127.0.0.1:9/mcp")) as bench:
        first = await bench.start(agent="needy", prompt="hello")
        assert await bench.completes(first) == "ok"
        second = await bench.resume(first, "again")
        assert await bench.completes(second) == "ok"
        (detail,) = bench.details(first)
        assert bench.details(second) == []
    assert detail.startswith("the MCP server far is not connected: ECONNREFUSED")


async def test_a_server_that_does_not_answer_is_reported_while_the_turn_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with silent_server() as (url, released), claude(tmp_path, monkeypatch, agents=needs(url)) as bench:
        run = await bench.start(agent="needy", prompt="hello")
        await bench.has_detail(run, "the turn waits for MCP servers that do not answer: far")
        assert not bench.api.asked
        released.set()
        assert await bench.completes(run) == "ok"


async def test_a_server_of_the_project_that_fails_in_a_turn_is_a_status_detail_of_that_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No turn waits for such a server, so its state is checked again at the end of the turn."""
    config = {"setting_sources": ["project"]}
    async with silent_server() as (url, released), claude(tmp_path, monkeypatch, config=config) as bench:
        servers = {"mcpServers": {"far": {"type": "http", "url": url}}}
        (bench.project / ".mcp.json").write_text(json.dumps(servers))
        go_on = asyncio.Event()
        bench.api.will(Held(go_on, Calls("Bash", {"command": "true"})))
        run = await bench.start()
        await bench.api.was_asked(1)
        assert bench.details(run) == []
        released.set()
        go_on.set()
        assert await bench.completes(run) == "ok"
        (detail,) = bench.details(run)
    assert detail.startswith("the MCP server far is not connected: ")


async def test_a_server_that_the_profile_requires_fails_the_run_before_the_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"mcp_required": True}
    async with claude(tmp_path, monkeypatch, agents=needs("http://127.0.0.1:9/mcp"), config=config) as bench:
        error = await bench.fails(await bench.start(agent="needy", prompt="hello"))
        assert not bench.api.asked
        assert await bench.completes(await bench.start("without an agent")) == "ok"
    assert "mcp_required) are not connected: far: ECONNREFUSED" in error


async def conduct(bench: ClaudeBench, demands: str) -> dict[str, object]:
    """Return the tool result that the model gets when it starts another agent and waits for it."""
    bench.api.will(
        Calls(START, {"agent_name": "say", "parameters": {"text": "from the child"}}),
        Says("The child has spoken."),
    )
    run = await bench.start(agent="conductor", demands=demands)
    assert await bench.completes(run) == "The child has spoken."
    (event,) = [event for event in await bench.events(run) if event["event_type"] == "post_tool"]
    assert event["tool_name"] == START
    (result,) = bench.api.asked[-1].tool_results
    text = result["content"] if isinstance(result["content"], str) else result["content"][0]["text"]
    # The program appends advice of its own.
    answer, _ = json.JSONDecoder().raw_decode(text)
    assert isinstance(answer, dict)
    return answer


async def test_the_model_starts_an_agent_and_gets_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's MCP server is local, so no proxy can reach it."""
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    async with (
        claude(tmp_path, monkeypatch, agents=AGENTS, variables=proxies) as bench,
        bench.system.running(make_home(tmp_path / "home")),
    ):
        answer = await conduct(bench, "{}")
    assert answer["result_data"] == {"said": "from the child"}
    assert START in str(bench.api.asked[0].body)


async def test_its_headers_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server rejects an invalid header of the agent, and the model gets the error."""
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        answer = await conduct(bench, "no JSON")
    assert "X-Additional-Demands" in str(answer["error"])
