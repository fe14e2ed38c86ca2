"""Tools of a server over HTTP, with its headers: the runner's own, by which a model starts other agents."""

import json
from pathlib import Path

import pytest

from fsm_runner.lifecycle.blueprint import MCP_URL_PLACEHOLDER
from tests.support.claude import ClaudeBench, claude
from tests.support.home import make_home
from tests.support.messages_api import Calls, Says

SERVER = {"url": MCP_URL_PLACEHOLDER, "config": {"X-Agent-Tags": "", "X-Additional-Demands": "${params.demands}"}}
AGENTS = {"conductor": {"mcp_servers": {"orchestrator": SERVER}, "parameters_schema": {"type": "object"}}}
START = "mcp__orchestrator__start_agent_session"


async def conduct(bench: ClaudeBench, demands: str) -> dict[str, object]:
    """What the model is answered when it starts another agent and waits for it."""
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
    # What comes behind it is advice of the program's own.
    answer, _ = json.JSONDecoder().raw_decode(text)
    assert isinstance(answer, dict)
    return answer


async def test_the_model_starts_an_agent_and_hears_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        claude(tmp_path, monkeypatch, agents=AGENTS) as bench,
        bench.desk.running(make_home(tmp_path / "home")),
    ):
        answer = await conduct(bench, "{}")
    assert answer["result_data"] == {"said": "from the child"}
    assert START in str(bench.api.asked[0].body)


async def test_its_headers_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demands that are none, in a header of the agent's, are refused by the server, which says so to the model."""
    async with claude(tmp_path, monkeypatch, agents=AGENTS) as bench:
        answer = await conduct(bench, "no JSON")
    assert "X-Additional-Demands" in str(answer["error"])
