"""Runs all cases of one lifecycle, one after another."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from fsm_runner.conformance.case import Case, CaseContext, SharedProcesses
from fsm_runner.conformance.cases import CASES
from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.conformance.result import CaseFailed, Outcome, Status
from fsm_runner.process.errors import ProcessStuck
from fsm_runner.protocol.statuses import Lifecycle

START = "start"


async def run_cases(
    environment: ConformanceEnvironment, lifecycle: Lifecycle, cases: Sequence[Case] = CASES
) -> AsyncIterator[Outcome]:
    """Yield the outcome of each case. Raises `SpawnFailed` if the executor cannot be started at all."""
    shared = SharedProcesses()
    can_start = True
    for case in listed_cases(lifecycle, cases):
        if lifecycle not in case.lifecycles:
            yield _skipped(case, lifecycle, "-")
        elif case.needs_limit and environment.limited_parameters is None:
            yield _skipped(case, lifecycle, "-", "needs --limited-parameters")
        elif case.needs_start and not can_start:
            yield _skipped(case, lifecycle, "untried", f"needs a {START}")
        else:
            outcome = await _run_case(case, CaseContext(environment, lifecycle, shared))
            can_start = can_start and not (case.name == START and outcome.status == "FAILED")
            yield outcome


def listed_cases(lifecycle: Lifecycle, cases: Sequence[Case] = CASES) -> list[Case]:
    """Return all cases. Of two cases with one name, return the one that applies to this lifecycle."""
    asked = {case.name for case in cases if lifecycle in case.lifecycles}
    return [case for case in cases if lifecycle in case.lifecycles or case.name not in asked]


async def _run_case(case: Case, context: CaseContext) -> Outcome:
    started_at = time.monotonic()
    remark, failure = None, None
    try:
        async with asyncio.timeout(context.environment.timeout_s):
            remark = await case.check(context)
    except CaseFailed as failed:
        failure = str(failed)
    except ProcessStuck as stuck:
        failure = f"it cannot be killed: {stuck}"
    except TimeoutError:
        failure = f"it hangs: waited {context.environment.timeout_s:g} s, last for {_awaited(context)}"
    return Outcome(
        case=case.name,
        lifecycle=context.lifecycle,
        status="ok" if failure is None else "FAILED",
        asks=case.asks,
        remark=remark,
        message=failure,
        transcript=() if failure is None else _transcript(context),
        duration_s=time.monotonic() - started_at,
    )


def _awaited(context: CaseContext) -> str:
    return next(
        (each.record.waiting_for for each in reversed(context.processes) if each.record.waiting_for), "the coordinator"
    )


def _transcript(context: CaseContext) -> tuple[str, ...]:
    return tuple(line for process in context.processes for line in process.record.transcript.lines)


def _skipped(case: Case, lifecycle: Lifecycle, status: Status, remark: str | None = None) -> Outcome:
    return Outcome(case=case.name, lifecycle=lifecycle, status=status, asks=case.asks, remark=remark)
