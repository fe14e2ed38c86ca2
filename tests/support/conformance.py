"""Runs the conformance suite on an executor in the test's event loop."""

from collections.abc import Sequence
from pathlib import Path

from fsm_runner.conformance.case import Case
from fsm_runner.conformance.cases import CASES
from fsm_runner.conformance.environment import open_environment
from fsm_runner.conformance.result import Outcome
from fsm_runner.conformance.suite import run_cases
from fsm_runner.conformance.target import find_target
from fsm_runner.protocol.statuses import Lifecycle
from fsm_runner.protocol.wire import JsonObject

EXECUTORS = Path(__file__).parent / "executors"
PLAIN_PYTHON = EXECUTORS / "plain-python"
PLAIN_SHELL = EXECUTORS / "plain-shell"

AMPLE_S = 30.0
"""The time limit of a case whose executor does not hang, on a busy machine."""
PARAMETERS: JsonObject = {"prompt": "hello"}
LIMITED_PARAMETERS: JsonObject = {"prompt": "hello", "limited": True}
"""With these, the correct Python executor reports a limit."""


async def check_executor(
    path: Path,
    lifecycle: Lifecycle,
    timeout_s: float = AMPLE_S,
    limited_parameters: JsonObject | None = None,
    cases: Sequence[Case] = CASES,
) -> list[Outcome]:
    target = find_target(str(path), None)
    async with open_environment(target, PARAMETERS, timeout_s, limited_parameters) as environment:
        return [outcome async for outcome in run_cases(environment, lifecycle, cases)]


def failed(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the messages of the failed cases by case name."""
    return {outcome.case: outcome.message or "" for outcome in outcomes if outcome.status == "FAILED"}
