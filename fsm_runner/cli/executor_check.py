"""`fsm-runner executor check`."""

import asyncio
from contextlib import AbstractAsyncContextManager

from loguru import logger

from fsm_runner.cli.output import show, show_json
from fsm_runner.cli.signals import on_ending_signals
from fsm_runner.config import parse
from fsm_runner.conformance import report
from fsm_runner.conformance.environment import ConformanceEnvironment, open_environment
from fsm_runner.conformance.result import Outcome
from fsm_runner.conformance.suite import run_cases
from fsm_runner.conformance.target import Target, find_target
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject
from fsm_runner.util import event_loop

DEFAULT_PARAMETERS = '{"prompt": "hello"}'
DEFAULT_TIMEOUT_S = 30.0


def check_executor(
    path: str,
    *,
    lifecycle: str | None,
    profile: str | None,
    parameters: str | None,
    limited_parameters: str | None,
    timeout: str | None,
    as_json: bool,
) -> int:
    """Print the results and return the exit code. Raises `UsageError` for a bad option or a file that cannot start."""
    lifecycles = _lifecycles(lifecycle)
    given = _parameters("--parameters", parameters or DEFAULT_PARAMETERS)
    limited = None if limited_parameters is None else _parameters("--limited-parameters", limited_parameters)
    timeout_s = DEFAULT_TIMEOUT_S if timeout is None else _timeout_s(timeout)
    target = find_target(path, profile)
    # The suite provokes what a runner would warn about; the transcripts show it.
    logger.disable("fsm_runner")
    try:
        outcomes = event_loop.run(
            _check(
                open_environment(target, given, timeout_s, limited),
                target,
                lifecycles or (target.lifecycle,),
                as_json=as_json,
            )
        )
    except asyncio.CancelledError:
        return EXIT_ABORTED
    except SpawnFailed as fault:
        raise UsageError(str(fault)) from fault
    finally:
        logger.enable("fsm_runner")
    return EXIT_FAILED if any(each.status == "FAILED" for each in outcomes) else EXIT_OK


async def _check(
    opened: AbstractAsyncContextManager[ConformanceEnvironment],
    target: Target,
    lifecycles: tuple[Lifecycle, ...],
    *,
    as_json: bool,
) -> list[Outcome]:
    if not as_json:
        show(_introduction(target))
    outcomes = []
    task = asyncio.current_task()

    def end(_: str) -> None:
        """Cancel this task on a signal, so that the executor does not outlive its check."""
        if task is not None and not task.cancelling():  # a second signal must not interrupt the cleanup
            task.cancel()

    with on_ending_signals(end):
        async with opened as environment:
            for lifecycle in lifecycles:
                if not as_json:
                    show(f"\n{report.heading(lifecycle)}")
                async for outcome in run_cases(environment, lifecycle):
                    outcomes.append(outcome)
                    show_json(outcome) if as_json else show(report.row(outcome))
    if not as_json:
        for failure in (each for each in outcomes if each.status == "FAILED"):
            show(f"\n{report.failure(failure)}")
        show(f"\n{report.summary(outcomes)}")
    return outcomes


def _introduction(target: Target) -> str:
    command = " ".join(target.program.command)
    if target.profile is None:
        return f"{command}, without a profile that names it (one_shot, unless --lifecycle is given)"
    others = f" (also named by {', '.join(target.other_profiles)})" if target.other_profiles else ""
    return f"{command}, with config and variables of the profile {target.profile}{others}"


def _lifecycles(text: str | None) -> tuple[Lifecycle, ...]:
    """Return the lifecycles that the option names; empty if it is not given."""
    choices: dict[str, tuple[Lifecycle, ...]] = {**{each: (each,) for each in LIFECYCLES}, "both": LIFECYCLES}
    if text and text not in choices:
        raise UsageError(f"--lifecycle: unknown value {text!r}; choose one of {', '.join(choices)}")
    return choices[text] if text else ()


def _parameters(option: str, text: str) -> JsonObject:
    try:
        return decode_json(text, JsonObject)
    except DECODE_FAULTS as defect:
        raise UsageError(f"{option}: not a JSON object: {defect}") from defect


def _timeout_s(text: str) -> float:
    try:
        return parse.seconds(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {text!r} is not a number of seconds above 0") from error
