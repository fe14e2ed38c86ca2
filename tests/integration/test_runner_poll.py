"""What a poll may bring, and what may go wrong with it."""

import itertools
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support import faults
from tests.support.faults import Answer, Forward, Kind
from tests.support.home import make_home
from tests.support.proxy import POLL, REPORT
from tests.support.runner import open_system, running

BAD_ANSWERS = {
    "html": faults.html(),
    "broken json": faults.broken_json(),
    "500": faults.status(500),
    "503": faults.status(503),
    "reset": faults.reset(),
    "404": faults.status(404),
    "401": faults.status(401, "no token"),
    "403": faults.status(403),
    "a list": faults.instead("a list", Answer(200, b"[]")),
    "a wrong type": faults.instead("a wrong type", Answer(200, b'{"stop_sessions": 3}')),
    "deep": faults.instead("deep", Answer(200, b'{"run":' + b"[" * 100_000)),
    "not utf-8": faults.instead("not utf-8", Answer(200, b'{"stop_sessions": ["\xff"]}')),
    "nothing": faults.instead("nothing", Answer(200, b"")),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_a_poll_that_goes_wrong_cuts_the_runner_off_until_one_goes_right(tmp_path: Path, kind: Kind) -> None:
    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, kind, times=3)
        async with system.running(make_home(tmp_path / "home")) as runner:
            await system.completes()
            await runner.goes_through("registering", "online", "disconnected", "online")
            assert len(system.proxy.calls_for("POST", "/runner/register")) == 1


async def test_only_one_poll_is_held_at_a_time(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, _):
        for _ in range(5):
            await system.completes()
        polls = system.proxy.calls_for("GET", POLL)
        for earlier, later in itertools.pairwise(polls):
            assert earlier.answered_at is not None
            assert earlier.answered_at < later.begun_at


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "dance"}, "type"),
        ({"session_id": None}, "session_id"),
        ({"parameters": [1]}, "parameters"),
        ({"resolved_agent_blueprint": {"name": 7}}, "name"),
    ],
    ids=["type", "session", "parameters", "agent"],
)
async def test_a_run_that_cannot_be_read_is_reported_failed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("GET", POLL, _with_run_fields(change), times=None)
        run = await system.submit("say", text="x")
        await system.proxy.answered("POST", REPORT + "failed")
        failed = await system.api.run(run.run_id)
        assert failed.status == "failed"
        assert named in (failed.error or "")
        await system.completes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "resume_session"}, "resume"),
        ({"resolved_agent_blueprint": None}, "no agent"),
        ({"resolved_agent_blueprint": {"name": "bare"}}, "neither a command nor a script"),
        ({"resolved_agent_blueprint": {"name": "gone", "command": "commands/gone"}}, "commands/gone does not exist"),
        ({"resolved_agent_blueprint": {"name": "evil", "command": "../../../bin/sh"}}, "../../../bin/sh"),
        ({"resolved_agent_blueprint": {"name": "evil", "command": "/bin/sh"}}, "/bin/sh"),
        ({"resolved_agent_blueprint": {"name": "odd", "command": "commands/say 'open"}}, "split"),
        ({"resolved_agent_blueprint": {"name": "evil", "script": "../../x"}}, "../../x"),
        ({"project_dir": "relative"}, "not an absolute path"),
        ({"project_dir": "/dev/null"}, "/dev/null"),
        ({"project_dir": "/nul\0byte"}, "directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_run_that_cannot_be_carried_out_is_reported_with_the_reason(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    async with running(tmp_path) as (system, _):
        system.proxy.fault("GET", POLL, _with_run_fields(change), times=None)
        run = await system.submit("say", text="x")
        failed = await system.end(run)
        assert failed.status == "failed"
        assert named in (failed.error or "")
        await system.completes()


async def test_unknown_fields_of_an_answer_are_ignored(tmp_path: Path) -> None:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        run = {**body["run"], "mood": {"is": "good"}, "execution_mode": "some_day", "status": "brand new"}
        return {**body, "run": run, "weather": [1, 2]}

    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, faults.rewrite_run(change), times=None)
        async with system.running(make_home(tmp_path / "home")):
            await system.completes()


async def test_a_run_that_is_handed_out_again_while_it_is_at_work_is_carried_out_once(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def again(answer: Answer) -> Answer:
        if b'"run"' in answer.body:
            seen.append(answer.body)
        return Answer(200, seen[0]) if seen else answer

    async with running(tmp_path) as (system, _):
        system.proxy.fault("GET", POLL, faults.rewrite(again), times=2)
        run = await system.submit("hang")
        await system.state(run, "executing")
        other = await system.submit("say", text="swallowed by the repetition")
        await system.proxy.answered("GET", POLL, 2)
        await system.proxy.seen("GET", POLL, 3)
        assert system.states[run.run_id] == ["claimed", "preparing_workspace", "executing"]
        assert system.states[other.run_id] == []


async def test_a_runner_that_another_client_deregisters_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as (system, runner):
        await system.proxy.seen("GET", POLL)
        (shown,) = await system.runners()
        async with httpx.AsyncClient(base_url=system.server.url) as http:
            await http.delete(f"/runners/{shown['runner_id']}")
        assert await runner.ended() == "stopped"
        assert await system.runners() == []


def _with_run_fields(fields: dict[str, Any]) -> Kind:
    return faults.rewrite_run(lambda body: {"run": {**body["run"], **fields}})


async def test_a_run_whose_answer_is_lost_is_carried_out_although_the_list_does_not_show_its_agent(
    tmp_path: Path,
) -> None:
    """As a deployed coordinator lists runs."""

    def without_blueprint(answer: Answer) -> Answer:
        runs = msgspec.json.decode(answer.body)["runs"]
        for run in runs:
            del run["resolved_agent_blueprint"]
        return Answer(200, msgspec.json.encode({"runs": runs}))

    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", "/runs", faults.rewrite(without_blueprint), times=None)
        system.proxy.fault("GET", POLL, _lost_run(), times=None)
        async with system.running(make_home(tmp_path / "home")):
            run = await system.submit("say", text="hello")
            assert (await system.end(run)).status == "completed"
            assert await system.result(run) == {"said": "hello"}
            assert len(system.proxy.acknowledged("GET", "/agents/say")) == 1
            assert len(system.proxy.calls_for("POST", REPORT + "completed")) == 1


def _lost_run() -> Kind:
    """The first answer that carries a run is lost."""
    is_lost = False

    async def respond(forward: Forward) -> Answer | None:
        nonlocal is_lost
        answer = await forward()
        if is_lost or answer is None or b'"run_id"' not in answer.body:
            return answer
        is_lost = True
        return None

    return Kind("lost run", respond)
