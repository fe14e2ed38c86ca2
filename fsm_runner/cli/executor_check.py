"""`fsm-runner executor check`."""

import asyncio
import contextlib
from collections.abc import Iterator

from loguru import logger

from fsm_runner.cli.output import show, show_json
from fsm_runner.cli.signals import on_ending_signals
from fsm_runner.conformance import report
from fsm_runner.conformance.case import Outcome
from fsm_runner.conformance.environment import built_stage
from fsm_runner.conformance.suite import outcomes
from fsm_runner.conformance.target import Target, find_target
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject
from fsm_runner.util import event_loop

DEFAULT_PARAMETERS = '{"prompt": "hello"}'
DEFAULT_TIMEOUT_S = 30.0
BOTH = "both"


def check_executor(
    path: str,
    *,
    lifecycle: str | None = None,
    profile: str | None = None,
    parameters: str | None = None,
    timeout: str | None = None,
    as_json: bool = False,
) -> int:
    """Print the table, and what was seen of each failure; the exit code.

    Raises `UsageError` where the file cannot be tried or an option is wrong.
    """
    lifecycles = _lifecycles(lifecycle)
    decoded_parameters = _parameters(parameters or DEFAULT_PARAMETERS)
    timeout_s = DEFAULT_TIMEOUT_S if timeout is None else _timeout_s(timeout)
    target = find_target(path, profile)
    # Much of what a runner would warn of is what the suite is for, and said in the transcripts.
    logger.disable("fsm_runner")
    try:
        seen = event_loop.run(
            _checked(target, lifecycles or (target.lifecycle,), decoded_parameters, timeout_s, as_json=as_json)
        )
    except asyncio.CancelledError:
        return EXIT_ABORTED
    except SpawnFailed as fault:
        raise UsageError(str(fault)) from fault
    finally:
        logger.enable("fsm_runner")
    return EXIT_FAILED if any(each.status == "FAILED" for each in seen) else EXIT_OK


async def _checked(
    target: Target, lifecycles: tuple[Lifecycle, ...], parameters: JsonObject, timeout_s: float, *, as_json: bool
) -> list[Outcome]:
    if not as_json:
        show(_introduction(target))
    seen = []
    with _ended_by_signals():
        async with built_stage(target, parameters, timeout_s) as environment:
            for lifecycle in lifecycles:
                if not as_json:
                    show(f"\n{report.heading(lifecycle)}")
                async for outcome in outcomes(environment, lifecycle):
                    seen.append(outcome)
                    show_json(outcome) if as_json else show(report.row(outcome))
    if not as_json:
        for failure in (each for each in seen if each.status == "FAILED"):
            show(f"\n{report.failure(failure)}")
        show(f"\n{report.summary(seen)}")
    return seen


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """An executor must not outlive its check: whoever ends this program ends the case first."""
    task = asyncio.current_task()

    def end(_: str) -> None:
        if task is not None and not task.cancelling():  # a second signal must not cut the first one's work short
            task.cancel()

    with on_ending_signals(end):
        yield


def _introduction(target: Target) -> str:
    command = " ".join(target.program.command)
    if target.profile is None:
        return f"{command}, which no profile here names (one_shot, unless --lifecycle says otherwise)"
    others = f" (also named by {', '.join(target.other_profiles)})" if target.other_profiles else ""
    return f"{command}, with the config and variables of the profile {target.profile}{others}"


def _lifecycles(text: str | None) -> tuple[Lifecycle, ...]:
    """Empty where none is named."""
    if not text:
        return ()
    if text == BOTH:
        return LIFECYCLES
    for lifecycle in LIFECYCLES:
        if text == lifecycle:
            return (lifecycle,)
    raise UsageError(f"--lifecycle: there is no {text!r}, there are {', '.join(LIFECYCLES)} and {BOTH}")


def _parameters(text: str) -> JsonObject:
    try:
        return decode_json(text, JsonObject)
    except DECODE_FAULTS as defect:
        raise UsageError(f"--parameters: not a JSON object: {defect}") from defect


def _timeout_s(text: str) -> float:
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        raise UsageError(f"--timeout {text}: is no number of seconds above 0")
    return timeout_s
