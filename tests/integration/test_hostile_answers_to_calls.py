"""Any response to any call of the API gives a value of its type or an error, quickly."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.protocol import wire
from tests.support.faults import instead
from tests.support.hostile_answers import spoiled
from tests.support.proxy import FaultProxy
from tests.support.watch import PATIENCE_S

ANSWERS = 135
"""To each call: each kind once at the least."""
REGISTRATION = wire.Registration(
    hostname="h", project_dir="/p", executor_profile="x", executor=wire.ExecutorInfo(type="procedural", command="c")
)
RUN = {
    "run_id": "run_1",
    "session_id": "ses_1",
    "type": "start_session",
    "agent_name": "say",
    "parameters": {"text": "x"},
    "status": "stopping",
    "runner_id": "rnr_1",
}
SESSION = {"session_id": "ses_1", "status": "finished", "agent_name": "say", "parent_session_id": None}
AGENT = {"name": "say", "description": "d", "parameters_schema": {"type": "object"}, "tags": ["a"]}
EVENT = {"event_type": "result", "timestamp": "t", "result_text": "x", "result_data": None}
REGISTERED = {"runner_id": "r", "poll_timeout_seconds": 30, "heartbeat_interval_seconds": 60}
RUNNER = {"executor_profile": "x", "status": "online"}

Call = Callable[[CoordinatorApi], Awaitable[object]]
CALLS: dict[str, tuple[str, Call, Any]] = {
    "health": ("GET", lambda api: api.health(), {}),
    "register": ("POST", lambda api: api.register(REGISTRATION), REGISTERED),
    "poll": ("GET", lambda api: api.poll("r", 1), {"run": RUN, "stop_sessions": ["ses_1"], "deregistered": False}),
    "heartbeat": ("POST", lambda api: api.heartbeat("r"), {"ok": True}),
    "deliver": ("PATCH", lambda api: api.deliver("/sessions/ses_1/metadata", b"{}", "PATCH"), {"ok": True}),
    "deregister": ("DELETE", lambda api: api.deregister("r"), {"ok": True}),
    "script": ("GET", lambda api: api.script_archive("tidy"), {}),
    "agent": ("GET", lambda api: api.agent("say"), AGENT),
    "agents": ("GET", lambda api: api.agents(["a"]), [AGENT]),
    "create_run": ("POST", lambda api: api.create_run(wire.RunRequest(type="start_session", parameters={})), RUN),
    "run": ("GET", lambda api: api.run("run_1"), RUN),
    "runs": ("GET", lambda api: api.runs("claimed"), {"runs": [RUN]}),
    "run_state": ("GET", lambda api: api.run_state("run_1"), RUN),
    "client_requests": ("GET", lambda api: api.client_requests(), {"runs": [RUN]}),
    "held": ("GET", lambda api: api.held("rnr_1", "claimed"), {"runs": [RUN]}),
    "stop_run": ("POST", lambda api: api.stop_run("run_1"), {"ok": True}),
    "sessions": ("GET", lambda api: api.sessions(), {"sessions": [SESSION]}),
    "session_status": ("GET", lambda api: api.session_status("ses_1"), {"status": "idle"}),
    "session_result": ("GET", lambda api: api.session_result("ses_1"), EVENT),
    "session_events": ("GET", lambda api: api.session_events("ses_1"), {"events": [EVENT]}),
    "delete_session": ("DELETE", lambda api: api.delete_session("ses_1"), {"ok": True}),
    "runners": ("GET", lambda api: api.runners(), {"runners": [RUNNER]}),
}


@pytest.mark.sends_invalid_requests("redirects lead to any path")
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_returns_a_value_or_raises_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "RESPONSE_LIMIT_BYTES", 2_500_000)
    method, call, sound = CALLS[name]
    taken = 0
    async with FaultProxy("http://127.0.0.1:1") as proxy, CoordinatorApi(proxy.url) as api:
        for kind, answer in itertools.islice(spoiled(random.Random(name), sound), ANSWERS):
            proxy.fault(method, ".*", instead(kind, answer))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await call(api)
            except CoordinatorError as fault:
                str(fault).encode()
                assert len(str(fault)) < 1_000, kind
            else:
                taken += 1
        assert len(proxy.calls) >= ANSWERS  # a redirect to the same host is followed
    assert 0 < taken < ANSWERS
