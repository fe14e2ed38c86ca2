"""Claims of a lost poll are carried out where the coordinator shows enough, and never where they may have begun."""

import asyncio
import math
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_client.api import Polled
from fsm_runner.coordinator_client.errors import Refused, Unreachable
from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.journal.journal import JournalUnreadable
from fsm_runner.protocol import wire
from fsm_runner.runtime.blueprint import unresolved
from fsm_runner.runtime.control.lost_claims import ENDED, LOST, PERHAPS_STARTED
from tests.support.line import RUN, FakeApi, line
from tests.support.virtual_time import in_virtual_time

NAMED = wire.Run(run_id="run_2", session_id="ses_2", agent_name="echo", parameters={"message": "hello"})
"""As `GET /runs` of a deployed coordinator shows a run: without the agent."""
AGENT: wire.JsonObject = {
    "name": "echo",
    "type": "procedural",
    "command": "commands/echo",
    "mcp_servers": {"orchestrator": {"url": "${runner.orchestrator_mcp_url}"}},
    "skills": ["unknown to this program"],
}


class ListApi(FakeApi):
    """A coordinator that lists claims, and keeps what it is sent."""

    def __init__(self, *claims: wire.Run, polls: Any = ()) -> None:
        super().__init__(polls)
        self.claim_answers = [list(claims)] * 2_000
        self.errors: dict[str, str] = {}

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> ApiResponse:
        if path.endswith("/failed"):
            self.errors[path.split("/")[-2]] = msgspec.json.decode(body)["error"]
        return await super().deliver(path, body, method)

    @property
    def looked_for_agents(self) -> int:
        return sum(call.startswith("agent ") for call in self.calls)


@in_virtual_time
async def test_a_claim_is_carried_out_with_the_definition_that_the_coordinator_shows() -> None:
    api = ListApi(NAMED)
    api.agents["echo"] = AGENT
    async with line(api) as made:
        await asyncio.sleep(60)
        assert made.executor.begun == ["run_2"]
        run = made.executor.assignments["run_2"].run
        assert (run.resolved_agent_blueprint, run.parameters) == (AGENT, {"message": "hello"})
    assert api.errors == {}
    assert api.looked_for_agents == 1


@in_virtual_time
async def test_a_resume_is_carried_out_likewise() -> None:
    resume = msgspec.structs.replace(NAMED, type="resume_session")
    api = ListApi(resume)
    api.agents["echo"] = AGENT
    async with line(api) as made:
        await asyncio.sleep(5)
        assert made.executor.assignments["run_2"].run.type == "resume_session"


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        ({**AGENT, "system_prompt": "About ${params.topic}, for ${scope.user}."}, "${params.topic}, ${scope.user}"),
        ({**AGENT, "mcp_servers": {"x": {"url": "http://x", "config": {"K": "${env.KEY}"}}}}, "${env.KEY}"),
        ({**AGENT, "mcp_servers": {"tools": {"ref": "tools"}}}, "MCP server 'tools'"),
        (
            Refused("GET http://user:secret@host/agents/echo: HTTP 404", 404),
            "agent 'echo' is not available: GET http://user:***@host/agents/echo: HTTP 404",
        ),
    ],
)
@in_virtual_time
async def test_what_only_the_coordinator_can_fill_in_fails_the_run_and_is_named(definition: Any, named: str) -> None:
    api = ListApi(NAMED, RUN)
    api.agents["echo"] = definition
    async with line(api) as made:
        await asyncio.sleep(5)
        assert made.executor.begun == [RUN.run_id]
    assert api.errors["run_2"].startswith(LOST)
    assert named in api.errors["run_2"]
    assert "submit it again" in api.errors["run_2"]


@in_virtual_time
async def test_an_agent_that_cannot_be_had_for_a_while_holds_up_no_other_run_and_is_asked_for_again() -> None:
    api = ListApi(NAMED, RUN)
    api.agents["echo"] = Unreachable("500")
    async with line(api) as made:
        await asyncio.sleep(5)
        assert made.executor.begun == [RUN.run_id]
        assert len(api.polled_at_s) > 0
        api.agents["echo"] = AGENT
        await made.register_again()  # ends no poll that is held; the next look-up comes after it
        await asyncio.sleep(1)
    assert api.errors == {}


@in_virtual_time
async def test_an_agent_that_is_never_to_be_had_fails_its_run_in_the_end() -> None:
    api = ListApi(NAMED, polls=_each_second())
    api.agents["echo"] = Unreachable("500")
    async with line(api) as made:
        await asyncio.sleep(EXECUTOR_MESSAGE_LIMIT_S - 5)
        assert api.errors == {}
        await asyncio.sleep(10)
        assert made.executor.begun == []
    assert "agent 'echo' is not available: 500" in api.errors["run_2"]


@in_virtual_time
async def test_an_agent_that_comes_back_has_its_run_carried_out() -> None:
    api = ListApi(NAMED, polls=_each_second())
    api.agents["echo"] = Unreachable("500")
    async with line(api) as made:
        await asyncio.sleep(10)
        assert made.executor.begun == []
        api.agents["echo"] = AGENT
        await asyncio.sleep(60)
        assert made.executor.begun == ["run_2"]


@in_virtual_time
async def test_a_claim_that_a_poll_brings_again_is_begun_once() -> None:
    handed_out = msgspec.structs.replace(NAMED, resolved_agent_blueprint=AGENT)
    api = ListApi(NAMED, polls=[Polled(run=handed_out), Unreachable("reset"), Polled(run=handed_out)])
    api.agents["echo"] = AGENT
    async with line(api) as made:
        await asyncio.sleep(60)
        assert made.executor.begun == ["run_2"]
    assert [path for path in api.delivered if path.endswith("started")] == ["/runner/runs/run_2/started"]


@in_virtual_time
async def test_a_runner_that_begins_to_leave_while_the_agent_is_asked_for_takes_nothing_up() -> None:
    api = ListApi(NAMED)
    async with line(api) as made:

        async def agent(name: str, form: type[wire.JsonObject]) -> wire.JsonObject:
            made.leave()
            return AGENT

        api.agent = agent  # type: ignore[method-assign] # the course changes meanwhile
        await asyncio.sleep(5)
        assert made.executor.begun == []
    assert api.errors == {}


@in_virtual_time
async def test_a_run_that_may_have_begun_before_the_journal_was_lost_is_not_carried_out() -> None:
    """The report `started` of an earlier process may be lost, so the list shows a run at work as claimed."""
    api = ListApi(RUN, NAMED)
    api.agents["echo"] = AGENT
    async with line(api, has_history=False) as made:
        await asyncio.sleep(5)
        assert made.executor.begun == []
    assert api.errors == {RUN.run_id: PERHAPS_STARTED, "run_2": PERHAPS_STARTED}


@in_virtual_time
async def test_a_run_that_is_only_in_the_journal_any_more_is_not_carried_out_again() -> None:
    api = ListApi(RUN)
    async with line(api) as made:
        made.record.claims.append(RUN.run_id)
        await asyncio.sleep(5)
        assert made.executor.begun == []
    assert api.errors == {RUN.run_id: ENDED}


@in_virtual_time
async def test_a_claim_waits_while_the_journal_cannot_be_read() -> None:
    api = ListApi(RUN, polls=_each_second())
    async with line(api) as made:
        made.record.unreadable = JournalUnreadable(None, "the disk fails")
        await asyncio.sleep(10)
        assert (made.executor.begun, api.errors) == ([], {})
        made.record.unreadable = None
        await asyncio.sleep(60)
        assert made.executor.begun == [RUN.run_id]


@in_virtual_time
async def test_a_runner_with_a_new_journal_carries_out_what_its_own_lost_polls_have_claimed() -> None:
    api = ListApi(polls=[Unreachable("reset")])
    api.claim_answers = [[], [NAMED]]
    api.agents["echo"] = AGENT
    async with line(api, has_history=False) as made:
        await asyncio.sleep(5)
        assert made.executor.begun == ["run_2"]


def test_only_the_runner_s_own_placeholders_are_no_matter() -> None:
    definition = {"a": ["${runner.x} $HOME ${}", {"b": "${params.k}"}], "c": "${params.k} ${unknown}"}
    assert sorted(unresolved(definition)) == ["${params.k}", "${unknown}"]


def _each_second() -> Any:
    """Polls that break after a second each, so that the runner stays in doubt."""
    loop = asyncio.get_running_loop()
    while loop.time() < math.inf:
        answer: asyncio.Future[Polled] = loop.create_future()
        loop.call_later(1.0, answer.set_exception, Unreachable("reset"))
        yield answer
