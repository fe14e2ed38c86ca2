"""The product at a coordinator that demands every required field and answers as little, or as much, as it may."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from fsm_runner.cli.runs import _row as row_of
from fsm_runner.cli.submission import create_run, earlier_results, say_outcome
from fsm_runner.config.profiles import runner_agent
from fsm_runner.coordinator_client.api import CoordinatorApi, UnreadableRun
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.errors import EXIT_OK, UsageError
from fsm_runner.mcp_server.caller import Caller
from fsm_runner.mcp_server.results import ToolFailure
from fsm_runner.mcp_server.toolbox import Toolbox
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from tests.support.deployed import CHECKS
from tests.support.deployed_answers import FILLINGS, DeployedCoordinator, Filling
from tests.support.embedded import autonomous, embedded_coordinator, registration
from tests.support.mcp import QUICK
from tests.support.openapi import DEPLOYED, operation_of, operations
from tests.support.serving import serving

REGISTRATION = wire.Registration(
    hostname="h",
    project_dir="/p",
    executor_profile="echo",
    executor=wire.ExecutorInfo(type="procedural", command="c"),
    agents=[runner_agent(agent) for agent in (wire.Agent(name="a", command="c"), wire.Agent(name="b"))],
)
START = wire.RunRequest(type="start_session", parameters={})
RESUME = wire.RunRequest(type="resume_session", parameters={}, session_id="ses_1")
BIND = wire.Bind(executor_session_id="e", hostname="h", executor_profile="echo")
EVENT = b'{"event_type":"message","session_id":"ses_1","timestamp":"2026-01-01T00:00:00Z"}'

WRONG_FIELDS: list[tuple[str, Any]] = [
    ("content", "text"),
    ("content", ["text"]),
    ("role", 1),
    ("tool_name", {}),
    ("tool_input", "text"),
    ("error", ["text"]),
    ("result_text", {}),
    ("result_data", "text"),
    ("exit_code", "0"),
    ("reason", 1),
]
"""Of events."""

Call = Callable[[CoordinatorApi], Awaitable[Any]]


def delivered(message: OutboundMessage) -> Call:
    return lambda api: api.deliver(message.path, message.body, message.method)


CALLS: dict[str, Call] = {
    "health": lambda api: api.health(),
    "register": lambda api: api.register(REGISTRATION),
    "poll": lambda api: api.poll("rnr_1", 1),
    "heartbeat": lambda api: api.heartbeat("rnr_1"),
    "started": delivered(messages.started("run_1", "rnr_1")),
    "completed": delivered(messages.completed("run_1", "rnr_1")),
    "failed": delivered(messages.failed("run_1", "rnr_1", "")),
    "stopped": delivered(messages.stopped("run_1", "rnr_1", "SIGTERM")),
    "session_ended": delivered(messages.session_ended("ses_1", "rnr_1", "finished")),
    "bind": delivered(messages.bind("ses_1", BIND)),
    "event": delivered(messages.event("ses_1", EVENT)),
    "metadata": delivered(messages.metadata("ses_1", b"{}")),
    "deregister": lambda api: api.deregister("rnr_1"),
    "script_archive": lambda api: api.script_archive("s"),
    "agent": lambda api: api.agent("a"),
    "agents": lambda api: api.agents(("t",)),
    "create_run": lambda api: api.create_run(START),
    "run": lambda api: api.run("run_1"),
    "runs": lambda api: api.runs("running"),
    "run_state": lambda api: api.run_state("run_1"),
    "client_requests": lambda api: api.client_requests(),
    "held": lambda api: api.held("rnr_1", "claimed"),
    "stop_run": lambda api: api.stop_run("run_1"),
    "sessions": lambda api: api.sessions(),
    "session_status": lambda api: api.session_status("ses_1"),
    "delete_session": lambda api: api.delete_session("ses_1"),
    "stop_session": lambda api: api.stop_session("ses_1"),
    "runners": lambda api: api.runners(),
    "session_result": lambda api: api.session_result("ses_1"),
    "session_events": lambda api: api.session_events("ses_1"),
}

TOOLS: dict[str, dict[str, Any]] = {
    "list_agent_blueprints": {},
    "list_agent_sessions": {},
    "start_agent_session": {"parameters": {}},
    "resume_agent_session": {"session_id": "ses_1", "parameters": {}},
    "get_agent_session_status": {"session_id": "ses_1"},
    "get_agent_session_result": {"session_id": "ses_1"},
    "delete_all_agent_sessions": {},
}

NOT_CALLED = {"GET /sessions/{session_id}", "GET /sessions/{session_id}/affinity", "GET /sse/sessions"}
"""Asked for by executors through the gateway, and by the MCP server while it waits."""


@pytest.fixture(params=FILLINGS)
async def deployed(request: pytest.FixtureRequest) -> AsyncIterator[tuple[CoordinatorApi, DeployedCoordinator]]:
    filling: Filling = request.param
    app = DeployedCoordinator(filling)
    async with serving(app) as url, CoordinatorApi(url) as api:
        yield api, app


@pytest.fixture
async def refusing() -> AsyncIterator[CoordinatorApi]:
    """With the 422 of a request that lacks a field."""
    async with serving(DeployedCoordinator("all", refusing=True)) as url, CoordinatorApi(url) as api:
        yield api


async def nobody(_: float, __: str) -> None:
    """Is told how a call of the MCP server is getting on."""


async def test_every_call_is_complete_and_every_answer_is_read(
    deployed: tuple[CoordinatorApi, DeployedCoordinator],
) -> None:
    api, _ = deployed
    await asyncio.gather(*(call(api) for call in CALLS.values()))
    assert {str(each) for each in operations(DEPLOYED)} - NOT_CALLED <= CHECKS.checked


@pytest.mark.parametrize("deployed", ["required"], indirect=True)
async def test_a_request_for_a_run_has_all_required_fields(
    deployed: tuple[CoordinatorApi, DeployedCoordinator],
) -> None:
    api, app = deployed
    for request in (START, RESUME):
        await api.create_run(request)
    assert app.bodies == [
        ("POST /runs", {"type": "start_session", "parameters": {}}),
        ("POST /runs", {"type": "resume_session", "parameters": {}, "session_id": "ses_1"}),
    ]


@pytest.mark.parametrize("deployed", ["required"], indirect=True)
async def test_an_agent_without_a_command_is_registered_with_an_empty_one(
    deployed: tuple[CoordinatorApi, DeployedCoordinator],
) -> None:
    api, app = deployed
    await api.register(REGISTRATION)
    assert [agent["command"] for agent in app.bodies[0][1]["agents"]] == ["c", ""]


async def test_a_run_that_is_polled_can_be_carried_out(deployed: tuple[CoordinatorApi, DeployedCoordinator]) -> None:
    api, _ = deployed
    run = (await api.poll("rnr_1", 1)).run
    assert not isinstance(run, UnreadableRun)
    assert run is not None
    assert (run.run_id, run.session_id, run.type) == ("run_1", "ses_1", "start_session")


async def test_every_tool_of_the_mcp_server_works(deployed: tuple[CoordinatorApi, DeployedCoordinator]) -> None:
    api, app = deployed
    toolbox = Toolbox(api, QUICK)
    given = [toolbox.call(name, arguments, Caller(), nobody) for name, arguments in TOOLS.items()]
    answers = dict(zip(TOOLS, await asyncio.gather(*given), strict=True))
    assert answers["get_agent_session_status"] == {"status": "completed"}
    started = answers["start_agent_session"]
    assert isinstance(started, dict)
    assert started["session_id"] == "ses_1"
    assert started["result_text"] == ("text of result_text" if app.filling == "all" else None)


async def test_what_submit_and_runs_do_works(
    deployed: tuple[CoordinatorApi, DeployedCoordinator], capsys: pytest.CaptureFixture[str]
) -> None:
    api, _ = deployed
    assert (await earlier_results(api, RESUME)).total() == 0
    created = await create_run(api, START)
    assert (created.run_id, created.session_id, await say_outcome(api, created.run_id)) == ("run_1", "ses_1", EXIT_OK)
    assert [row_of(run)[:2] for run in await api.runs()] == [("run_1", "completed")]
    assert capsys.readouterr().out == ""


async def test_the_embedded_coordinator_demands_what_a_deployed_one_demands() -> None:
    """So that an executor or a client that works with the one works with the other."""
    answers = DeployedCoordinator("required")
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        run = await coordinator.submit()
        known = {"runner_id": runner_id, "session_id": run["session_id"], "run_id": run["run_id"]}
        for operation in operations(DEPLOYED):
            if operation.body is None:
                continue
            path = re.sub(r"{(\w+)}", lambda name: known[name[1]], operation.path)
            body = answers.instance(operation.body)
            for field in operation.body.content.get("required", ()):
                lacking = {name: value for name, value in body.items() if name != field}
                answer = await coordinator.http.request(operation.method, path, json=lacking)
                assert answer.status_code == 422, (operation.path, field, answer.text)
                assert [each["loc"] for each in answer.json()["detail"]] == [["body", field]]


async def test_an_event_that_a_deployed_coordinator_refuses_is_refused_by_the_embedded_one() -> None:
    (operation,) = (each for each in operations(DEPLOYED) if str(each) == "POST /sessions/{session_id}/events")
    async with embedded_coordinator() as coordinator:
        await coordinator.register(**autonomous())
        run = await coordinator.prompt()
        for field, wrong in WRONG_FIELDS:
            event = {**msgspec.json.decode(EVENT), field: wrong}
            assert operation.request_defects(msgspec.json.encode(event)) != []
            answer = await coordinator.event(run, **{field: wrong})
            assert answer.status_code == 422, (field, wrong)
            assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


async def test_a_refusal_for_a_missing_field_names_the_field(refusing: CoordinatorApi) -> None:
    refused = r"^the coordinator refuses the request: text of : text of msg$"
    with pytest.raises(UsageError, match=refused):
        await create_run(refusing, START)
    with pytest.raises(ToolFailure, match="text of msg"):
        await Toolbox(refusing, QUICK).call("start_agent_session", {"parameters": {}}, Caller(), nobody)
    answers = await asyncio.gather(*(call(refusing) for call in CALLS.values()), return_exceptions=True)
    assert [name for name, each in zip(CALLS, answers, strict=True) if not isinstance(each, CoordinatorError)] == []


async def test_a_deployed_runner_and_client_get_the_answers_that_they_know() -> None:
    """They send nothing that is new, and ignore what they do not know."""
    async with embedded_coordinator() as coordinator:

        async def call(method: str, target: str, body: Any = None) -> Any:
            answer = await coordinator.http.request(method, target, json=body)
            operation = operation_of(DEPLOYED, method, target.partition("?")[0])
            assert operation is not None
            assert answer.is_success, (target, answer.text)
            assert operation.defects(answer.status_code, answer.headers["content-type"], answer.content) == [], target
            return answer.json()

        runner_id = (await call("POST", "/runner/register", registration(**autonomous())))["runner_id"]
        sender = {"runner_id": runner_id}
        submitted = {"type": "start_session", "parameters": {"prompt": "hi"}}
        for end, fields in {"completed": {"status": "success"}, "failed": {"error": "e"}, "stopped": {}}.items():
            await call("POST", "/runs", submitted)
            run = (await call("GET", f"/runner/runs?runner_id={runner_id}"))["run"]
            run_url, session_url = f"/runner/runs/{run['run_id']}", f"/sessions/{run['session_id']}"
            await call("POST", f"{run_url}/started", sender)
            bind = {"executor_session_id": "e", "hostname": "host", "executor_profile": "echo"}
            await call("POST", f"{session_url}/bind", bind)
            result = {"event_type": "result", "session_id": run["session_id"], "timestamp": "2026", "result_text": "t"}
            await call("POST", f"{session_url}/events", result)
            await call("PATCH", f"{session_url}/metadata", {"last_resumed_at": "2026"})
            await call("POST", "/runner/heartbeat", sender)
            if end == "stopped":
                await call("POST", f"/runs/{run['run_id']}/stop")
                stops = await call("GET", f"/runner/runs?runner_id={runner_id}")
                assert stops == {"stop_sessions": [run["session_id"]]}
            await call("POST", f"{run_url}/{end}", {**sender, **fields})
            for target in ("", "/status", "/result", "/events", "/affinity"):
                if target != "/result" or end == "completed":
                    await call("GET", session_url + target)
            assert (await call("GET", f"/runs/{run['run_id']}"))["status"] == end
        for target in ("/runs", "/runs?status=completed", "/sessions", "/runners", "/agents", "/health"):
            await call("GET", target)
        await call("DELETE", session_url)
        await call("DELETE", f"/runners/{runner_id}?self=true")
