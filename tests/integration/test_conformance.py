"""The conformance suite passes good executors, and each fault fails exactly the cases that should catch it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from fsm_runner.conformance.case import CaseContext, SharedProcesses
from fsm_runner.conformance.cases import CASES, endings
from fsm_runner.conformance.environment import open_environment
from fsm_runner.conformance.result import CaseFailed, Outcome
from fsm_runner.conformance.target import find_target
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from tests.support.broken_executors import CASES_OF_TURNS, Fault, write_executor
from tests.support.broken_executors.faults import GROUPS
from tests.support.conformance import (
    AMPLE_S,
    LIMITED_PARAMETERS,
    PARAMETERS,
    PLAIN_PYTHON,
    PLAIN_SHELL,
    check_executor,
    failed,
)
from tests.support.faults import reset
from tests.support.processes import gone
from tests.support.proxy import FaultProxy

AT_ONCE = 3
BIND = 'post("/bind", {"session_id": session_id, "executor_session_id": f"python_{session_id}"})'
LIMITED_LINE = 'print(json.dumps({"type": "turn_complete", "result": "", "limited": True}), flush=True)'
RESULT = 'send_event(session_id, "result", result_text=answer)'
ECHO = Path(__file__).parents[2] / "executors" / "echo" / "ao-echo-exec"


def remark(outcomes: Sequence[Outcome], case: str) -> str | None:
    """Return the remark of a case that passed."""
    (found,) = (outcome.remark for outcome in outcomes if outcome.case == case and outcome.status == "ok")
    return found


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("path", [PLAIN_PYTHON, PLAIN_SHELL, ECHO], ids=lambda path: path.name)
async def test_a_good_executor_passes(path: Path, lifecycle: Lifecycle) -> None:
    limited_parameters = LIMITED_PARAMETERS if path == PLAIN_PYTHON else None
    outcomes = await check_executor(path, lifecycle, limited_parameters=limited_parameters)
    assert failed(outcomes) == {}
    asked = {
        case.name for case in CASES if lifecycle in case.lifecycles and (limited_parameters or not case.needs_limit)
    }
    assert {outcome.case for outcome in outcomes if outcome.status == "ok"} == asked


@pytest.mark.sends_invalid_requests("executors with faults of every kind")
@pytest.mark.parametrize("group", GROUPS)
async def test_each_fault_fails_exactly_the_cases_that_should_catch_it(tmp_path: Path, group: str) -> None:
    faults = GROUPS[group]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def caught_by(fault: Fault) -> dict[str, str]:
        async with at_once:
            return failed(
                await check_executor(
                    write_executor(tmp_path, fault.name, fault.replace),
                    fault.lifecycle,
                    fault.timeout_s,
                    LIMITED_PARAMETERS if fault.is_of_turns else None,
                    [case for case in CASES if not fault.is_of_turns or case.name in CASES_OF_TURNS],
                )
            )

    outcomes = await asyncio.gather(*(caught_by(fault) for fault in faults))
    differing = {
        fault.name: messages
        for fault, messages in zip(faults, outcomes, strict=True)
        if messages.keys() != fault.caught_by
    }
    assert differing == {}


async def test_processes_left_running_are_listed_and_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    starts_a_child = (
        'import subprocess; child = subprocess.Popen(["sleep", "1000"], start_new_session=True); '
        f'open({str(pids)!r}, "a").write(f"{{child.pid}}\\n")'
    )
    executor = write_executor(tmp_path, "leaves-a-session", ("parameters = next_turn()", f"{starts_a_child}; break"))
    outcomes = await check_executor(executor, "one_shot")
    children = [int(pid) for pid in pids.read_text().split()]
    message = failed(outcomes)["leaves-nothing"]
    assert "sleep 1000" in message
    assert any(f"process {pid} " in message for pid in children)
    for pid in children:
        await gone(pid)


async def test_a_detached_process_that_holds_the_output_open_is_detected(tmp_path: Path) -> None:
    """The process has neither the executor's process group nor its session variable."""
    holds_output = 'import subprocess; subprocess.Popen(["sleep", "3"], start_new_session=True, env={}); break'
    executor = write_executor(tmp_path, "holds-its-output", ("parameters = next_turn()", holds_output))
    async with open_environment(find_target(str(executor), None), PARAMETERS, AMPLE_S) as environment:
        with pytest.raises(CaseFailed, match="still holds its stdout or stderr open"):
            await endings.leaves_nothing.check(CaseContext(environment, "one_shot", SharedProcesses()))


async def test_correct_metadata_passes(tmp_path: Path) -> None:
    metadata = {"status_detail": "waits", "usage": {"output_tokens": 12, "cost_usd": 0.5, "others": 1}, "limit": None}
    sends = f'post("/metadata", {{"session_id": session_id, **{metadata!r}}}, "PATCH"); {RESULT}'
    outcomes = await check_executor(write_executor(tmp_path, "counts", (RESULT, sends)), "persistent")
    assert failed(outcomes) == {}
    assert remark(outcomes, "metadata-form") is None


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_an_executor_that_fails_at_a_limit_passes(tmp_path: Path, lifecycle: Lifecycle) -> None:
    """A persistent one may exit too. A run whose session is not bound yet begins again."""
    executor = write_executor(
        tmp_path,
        "fails",
        (f"        {BIND}\n", ""),
        ("        take_turn(session_id", f"        {BIND}\n                take_turn(session_id"),
        ("report_limit(session_id)\n            else", "report_limit(session_id); return 3\n            else"),
        (LIMITED_LINE, "pass"),
    )
    outcomes = await check_executor(executor, lifecycle, limited_parameters=LIMITED_PARAMETERS)
    assert failed(outcomes) == {}
    assert remark(outcomes, "limited") == "exits"


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (
            "assistant",
            "it sent a limit and then a message of the assistant, which withdraws the limit, so the run does not wait "
            "for the reset; expected the limit after all events of its turn",
        ),
        ("user", None),
    ],
)
async def test_an_event_that_withdraws_the_limit_is_named(tmp_path: Path, role: str, message: str | None) -> None:
    event = f'send_event(session_id, "message", role={role!r}, content=[])'
    executor = write_executor(tmp_path, "goes-on", (LIMITED_LINE, f"{event}\n    {LIMITED_LINE}"))
    outcomes = await check_executor(
        executor,
        "one_shot",
        limited_parameters=LIMITED_PARAMETERS,
        cases=[case for case in CASES if case.name in ("start", "limited")],
    )
    assert failed(outcomes) == ({} if message is None else {"limited": message})


async def test_a_refused_resume_passes(tmp_path: Path) -> None:
    refuses = ('mode"] not in ("start", "resume"):', 'mode"] != "start":')
    outcomes = await check_executor(write_executor(tmp_path, "stateless", refuses), "one_shot")
    assert failed(outcomes) == {}
    assert {outcome.remark for outcome in outcomes if outcome.case == "resume"} == {"refuses to resume"}


async def test_cases_that_need_a_start_are_skipped_if_it_fails(tmp_path: Path) -> None:
    cannot_start = ("while parameters is not None:", 'raise OSError("the work cannot be done")\n        while True:')
    outcomes = await check_executor(write_executor(tmp_path, "cannot-start", cannot_start), "persistent")
    assert failed(outcomes) == {"start": "it exited with exit code 1 before it wrote turn_complete"}
    untried = {outcome.case for outcome in outcomes if outcome.status == "untried"}
    need_it = {case.name for case in CASES if case.needs_start and "persistent" in case.lifecycles}
    assert untried == need_it - {"limited"}


async def test_a_lost_connection_is_retried(tmp_path: Path) -> None:
    async with (
        open_environment(find_target(str(PLAIN_PYTHON), None), PARAMETERS, AMPLE_S) as environment,
        FaultProxy(environment.api.url) as proxy,
        CoordinatorApi(proxy.url) as api,
    ):
        proxy.fault("POST", "/runs", reset())
        run = await msgspec.structs.replace(environment, api=api).start_run()
        assert run.parameters == PARAMETERS
        assert len(proxy.calls_for("POST", "/runs")) == 2


def test_each_case_catches_a_fault() -> None:
    caught = {name for faults in GROUPS.values() for fault in faults for name in fault.caught_by}
    assert caught == {case.name for case in CASES}
