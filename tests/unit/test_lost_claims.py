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
from tests.support.fake_api import FakeApi
from tests.support.polling import RUN, polling_runner
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

    async def deliver(self, path: str, body: bytes, method: str = "POST", **_: object) -> ApiResponse:
        if path.endswith("/failed"):
            self.errors[path.split("/")[-2]] = msgspec.json.decode(body)["error"]
        return await super().deliver(path, body, method)

    @property
    def looked_for_agents(self) -> int:
        return sum(call.startswith("agent ") for call in self.calls)


@in_virtual_time
async def test_a_claim_is_started_with_the_coordinators_definition_of_its_agent() -> None:
    api = ListApi(NAMED)
    api.agents["echo"] = AGENT
    async with polling_runner(api) as runner:
        await asyncio.sleep(60)
        assert runner.executor.begun == ["run_2"]
        run = runner.executor.assignments["run_2"].run
        assert (run.resolved_agent_blueprint, run.parameters) == (AGENT, {"message": "hello"})
    assert api.errors == {}
    assert api.looked_for_agents == 1


@in_virtual_time
async def test_a_resume_is_started_likewise() -> None:
    resume = msgspec.structs.replace(NAMED, type="resume_session")
    api = ListApi(resume)
    api.agents["echo"] = AGENT
    async with polling_runner(api) as runner:
        await asyncio.sleep(5)
        assert runner.executor.assignments["run_2"].run.type == "resume_session"


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
async def test_a_placeholder_of_the_coordinator_fails_the_run_and_is_named(definition: Any, named: str) -> None:
    api = ListApi(NAMED, RUN)
    api.agents["echo"] = definition
    async with polling_runner(api) as runner:
        await asyncio.sleep(5)
        assert runner.executor.begun == [RUN.run_id]
    assert api.errors["run_2"].startswith(LOST)
    assert named in api.errors["run_2"]
    assert "submit it again" in api.errors["run_2"]


@in_virtual_time
async def test_an_agent_that_is_temporarily_unavailable_delays_no_other_run_and_is_requested_again() -> None:
    api = ListApi(NAMED, RUN)
    api.agents["echo"] = Unreachable("500")
    async with polling_runner(api) as runner:
        await asyncio.sleep(5)
        assert runner.executor.begun == [RUN.run_id]
        assert len(api.polled_at_s) > 0
        api.agents["echo"] = AGENT
        await runner.register_again()  # ends no poll that is held; the next look-up comes after it
        await asyncio.sleep(1)
    assert api.errors == {}


@in_virtual_time
async def test_an_agent_that_remains_unavailable_fails_its_run() -> None:
    api = ListApi(NAMED, polls=_each_second())
    api.agents["echo"] = Unreachable("500")
    async with polling_runner(api) as runner:
        await asyncio.sleep(EXECUTOR_MESSAGE_LIMIT_S - 5)
        assert api.errors == {}
        await asyncio.sleep(10)
        assert runner.executor.begun == []
    assert "agent 'echo' is not available: 500" in api.errors["run_2"]


@in_virtual_time
async def test_the_time_in_which_the_process_is_stopped_does_not_count() -> None:
    api = ListApi(NAMED, polls=_each_second())
    api.agents["echo"] = Unreachable("500")
    async with polling_runner(api) as runner:
        await asyncio.sleep(10)
        now_s = runner.client.now_s
        runner.client.now_s = lambda: now_s() + 2 * EXECUTOR_MESSAGE_LIMIT_S
        await asyncio.sleep(10)
        assert api.errors == {}
        api.agents["echo"] = AGENT
        await asyncio.sleep(60)
        assert runner.executor.begun == ["run_2"]


@in_virtual_time
async def test_the_run_of_an_agent_that_becomes_available_is_started() -> None:
    api = ListApi(NAMED, polls=_each_second())
    api.agents["echo"] = Unreachable("500")
    async with polling_runner(api) as runner:
        await asyncio.sleep(10)
        assert runner.executor.begun == []
        api.agents["echo"] = AGENT
        await asyncio.sleep(60)
        assert runner.executor.begun == ["run_2"]


@in_virtual_time
async def test_a_claim_that_a_poll_delivers_again_is_started_once() -> None:
    handed_out = msgspec.structs.replace(NAMED, resolved_agent_blueprint=AGENT)
    api = ListApi(NAMED, polls=[Polled(run=handed_out), Unreachable("reset"), Polled(run=handed_out)])
    api.agents["echo"] = AGENT
    async with polling_runner(api) as runner:
        await asyncio.sleep(60)
        assert runner.executor.begun == ["run_2"]
    assert [path for path in api.delivered if path.endswith("started")] == ["/runner/runs/run_2/started"]


@in_virtual_time
async def test_a_runner_that_begins_to_leave_during_the_request_for_the_agent_starts_nothing() -> None:
    api = ListApi(NAMED)
    async with polling_runner(api) as runner:

        async def agent_definition(name: str) -> wire.JsonObject:
            runner.leave()
            return AGENT

        api.agent_definition = agent_definition  # type: ignore[method-assign] # the course changes meanwhile
        await asyncio.sleep(5)
        assert runner.executor.begun == []
    assert api.errors == {}


@in_virtual_time
async def test_a_run_that_may_have_started_before_the_journal_was_lost_is_not_started() -> None:
    """The report `started` of an earlier process may be lost, so the list shows a run at work as claimed."""
    api = ListApi(RUN, NAMED)
    api.agents["echo"] = AGENT
    async with polling_runner(api, has_history=False) as runner:
        await asyncio.sleep(5)
        assert runner.executor.begun == []
    assert api.errors == {RUN.run_id: PERHAPS_STARTED, "run_2": PERHAPS_STARTED}


@in_virtual_time
async def test_a_run_that_only_the_journal_knows_is_not_started_again() -> None:
    api = ListApi(RUN)
    async with polling_runner(api) as runner:
        runner.record.claims.append(RUN.run_id)
        await asyncio.sleep(5)
        assert runner.executor.begun == []
    assert api.errors == {RUN.run_id: ENDED}


@in_virtual_time
async def test_a_claim_waits_while_the_journal_cannot_be_read() -> None:
    api = ListApi(RUN, polls=_each_second())
    async with polling_runner(api) as runner:
        runner.record.unreadable = JournalUnreadable("the disk fails")
        await asyncio.sleep(10)
        assert (runner.executor.begun, api.errors) == ([], {})
        runner.record.unreadable = None
        await asyncio.sleep(60)
        assert runner.executor.begun == [RUN.run_id]


@in_virtual_time
async def test_a_runner_with_a_new_journal_starts_the_claims_of_its_own_lost_polls() -> None:
    api = ListApi(polls=[Unreachable("reset")])
    api.claim_answers = [[], [NAMED]]
    api.agents["echo"] = AGENT
    async with polling_runner(api, has_history=False) as runner:
        await asyncio.sleep(5)
        assert runner.executor.begun == ["run_2"]


def test_the_runners_own_placeholders_may_remain() -> None:
    definition = {"a": ["${runner.x} $HOME ${}", {"b": "${params.k}"}], "c": "${params.k} ${unknown}"}
    assert sorted(unresolved(definition)) == ["${params.k}", "${unknown}"]


def _each_second() -> Any:
    """Polls that break after a second each, so that the runner stays in doubt."""
    loop = asyncio.get_running_loop()
    while loop.time() < math.inf:
        answer: asyncio.Future[Polled] = loop.create_future()
        loop.call_later(1.0, answer.set_exception, Unreachable("reset"))
        yield answer
