"""The conformance suite at work on an executor, in the test's event loop."""

from collections.abc import Sequence
from pathlib import Path

from fsm_runner.conformance.case import Outcome
from fsm_runner.conformance.environment import built_stage
from fsm_runner.conformance.suite import outcomes
from fsm_runner.conformance.target import find_target
from fsm_runner.protocol.statuses import Lifecycle
from fsm_runner.protocol.wire import JsonObject

EXECUTORS = Path(__file__).parent / "executors"
PLAIN_PYTHON = EXECUTORS / "plain-python"
PLAIN_SHELL = EXECUTORS / "plain-shell"

AMPLE_S = 30.0
"""For a case of an executor that does not hang, on a machine that has other things to do."""
PARAMETERS: JsonObject = {"prompt": "hello"}


async def tried(path: Path, lifecycle: Lifecycle, timeout_s: float = AMPLE_S) -> list[Outcome]:
    target = find_target(str(path), None)
    async with built_stage(target, PARAMETERS, timeout_s) as environment:
        return [outcome async for outcome in outcomes(environment, lifecycle)]


def failed(seen: Sequence[Outcome]) -> dict[str, str]:
    """The messages of the cases that failed, by their names."""
    return {outcome.case: outcome.message or "" for outcome in seen if outcome.status == "FAILED"}
