"""The conformance suite: good executors pass it, and each fault is caught by the cases that it is one of."""

import asyncio
from pathlib import Path

import pytest

from fsm_runner.conformance.case import LIFECYCLES, Lifecycle
from fsm_runner.conformance.cases import CASES
from tests.support.broken_executors import Fault, write_broken
from tests.support.broken_executors.faults import GROUPS
from tests.support.conformance import PLAIN_PYTHON, PLAIN_SHELL, failed, tried

AT_ONCE = 3
ECHO = Path(__file__).parents[2] / "executors" / "echo" / "ao-echo-exec"


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("path", [PLAIN_PYTHON, PLAIN_SHELL, ECHO], ids=lambda path: path.name)
async def test_a_good_executor_passes(path: Path, lifecycle: Lifecycle) -> None:
    seen = await tried(path, lifecycle)
    assert failed(seen) == {}
    asked = {case.name for case in CASES if lifecycle in case.lifecycles}
    assert {outcome.case for outcome in seen if outcome.status == "ok"} == asked


@pytest.mark.parametrize("group", GROUPS)
async def test_each_fault_is_caught_by_the_cases_that_ask_for_it(tmp_path: Path, group: str) -> None:
    faults = GROUPS[group]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def caught_by(fault: Fault) -> dict[str, str]:
        async with at_once:
            return failed(await tried(write_broken(tmp_path, fault), fault.lifecycle, fault.timeout_s))

    seen = await asyncio.gather(*(caught_by(fault) for fault in faults))
    differing = {
        fault.name: messages for fault, messages in zip(faults, seen, strict=True) if messages.keys() != fault.caught_by
    }
    assert differing == {}


def test_each_case_catches_a_fault() -> None:
    caught = {name for faults in GROUPS.values() for fault in faults for name in fault.caught_by}
    assert caught == {case.name for case in CASES}
