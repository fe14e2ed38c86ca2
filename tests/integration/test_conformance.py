"""The conformance suite: good executors pass it, and each fault is caught by the cases that it is one of."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from fsm_runner.conformance.case import CaseFailed
from fsm_runner.conformance.case_context import CaseContext, FirstTurn
from fsm_runner.conformance.cases import CASES, endings
from fsm_runner.conformance.environment import built_stage
from fsm_runner.conformance.target import find_target
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from tests.support.broken_executors import Fault, write_executor
from tests.support.broken_executors.faults import GROUPS
from tests.support.conformance import AMPLE_S, PARAMETERS, PLAIN_PYTHON, PLAIN_SHELL, failed, tried
from tests.support.faults import reset
from tests.support.processes import gone
from tests.support.proxy import FaultProxy

AT_ONCE = 3
ECHO = Path(__file__).parents[2] / "executors" / "echo" / "ao-echo-exec"


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("path", [PLAIN_PYTHON, PLAIN_SHELL, ECHO], ids=lambda path: path.name)
async def test_a_good_executor_passes(path: Path, lifecycle: Lifecycle) -> None:
    seen = await tried(path, lifecycle)
    assert failed(seen) == {}
    asked = {case.name for case in CASES if lifecycle in case.lifecycles}
    assert {outcome.case for outcome in seen if outcome.status == "ok"} == asked


@pytest.mark.sends_invalid_requests("executors with faults of every kind")
@pytest.mark.parametrize("group", GROUPS)
async def test_each_fault_is_caught_by_the_cases_that_ask_for_it(tmp_path: Path, group: str) -> None:
    faults = GROUPS[group]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def caught_by(fault: Fault) -> dict[str, str]:
        async with at_once:
            return failed(
                await tried(write_executor(tmp_path, fault.name, fault.replace), fault.lifecycle, fault.timeout_s)
            )

    seen = await asyncio.gather(*(caught_by(fault) for fault in faults))
    differing = {
        fault.name: messages for fault, messages in zip(faults, seen, strict=True) if messages.keys() != fault.caught_by
    }
    assert differing == {}


async def test_what_an_executor_has_left_behind_is_shown_and_gone_afterwards(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    starts_a_child = (
        'import subprocess; child = subprocess.Popen(["sleep", "1000"], start_new_session=True); '
        f'open({str(pids)!r}, "a").write(f"{{child.pid}}\\n")'
    )
    executor = write_executor(tmp_path, "leaves-a-session", ("parameters = next_turn()", f"{starts_a_child}; break"))
    seen = await tried(executor, "one_shot")
    children = [int(pid) for pid in pids.read_text().split()]
    message = failed(seen)["leaves-nothing"]
    assert "sleep 1000" in message
    assert any(f"process {pid} " in message for pid in children)
    for pid in children:
        await gone(pid)


async def test_output_that_is_held_open_after_the_end_is_found(tmp_path: Path) -> None:
    """By somebody whom nothing shows to be the executor's."""
    holds_output = 'import subprocess; subprocess.Popen(["sleep", "3"], start_new_session=True, env={}); break'
    executor = write_executor(tmp_path, "holds-its-output", ("parameters = next_turn()", holds_output))
    async with built_stage(find_target(str(executor), None), PARAMETERS, AMPLE_S) as environment:
        with pytest.raises(CaseFailed, match="still holds its stdout or stderr open"):
            await endings.leaves_nothing(CaseContext(environment, "one_shot", FirstTurn()))


async def test_a_resume_that_is_refused_as_the_protocol_says_is_no_failure(tmp_path: Path) -> None:
    refuses = ('mode"] not in ("start", "resume"):', 'mode"] != "start":')
    seen = await tried(write_executor(tmp_path, "stateless", refuses), "one_shot")
    assert failed(seen) == {}
    assert {outcome.remark for outcome in seen if outcome.case == "resume"} == {"refuses to resume"}


async def test_without_a_start_what_needs_one_is_not_tried(tmp_path: Path) -> None:
    cannot_start = ("while parameters is not None:", 'raise OSError("the work cannot be done")\n        while True:')
    seen = await tried(write_executor(tmp_path, "cannot-start", cannot_start), "persistent")
    assert failed(seen) == {"start": "it ended with exit code 1 before it wrote turn_complete"}
    untried = {outcome.case for outcome in seen if outcome.status == "untried"}
    assert untried == {case.name for case in CASES if case.needs_start and "persistent" in case.lifecycles}


async def test_a_connection_that_was_lost_meanwhile_fails_no_case(tmp_path: Path) -> None:
    async with (
        built_stage(find_target(str(PLAIN_PYTHON), None), PARAMETERS, AMPLE_S) as environment,
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
