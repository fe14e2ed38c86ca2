"""Tries all cases in one lifecycle, one after another."""

import asyncio
import time
from collections.abc import AsyncIterator

from fsm_runner.conformance.case import Case, CaseFailed, Outcome, Status
from fsm_runner.conformance.case_context import CaseContext, FirstTurn
from fsm_runner.conformance.cases import CASES
from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.process.errors import ProcessStuck
from fsm_runner.protocol.statuses import Lifecycle

START = "start"


async def outcomes(environment: ConformanceEnvironment, lifecycle: Lifecycle) -> AsyncIterator[Outcome]:
    """Raises `SpawnFailed` where the executor cannot be started at all."""
    first = FirstTurn()
    starts = True
    for case in cases_shown(lifecycle):
        if lifecycle not in case.lifecycles:
            yield _not_tried(case, lifecycle, "-")
        elif case.needs_start and not starts:
            yield _not_tried(case, lifecycle, "untried", f"needs a {START}")
        else:
            outcome = await _tried(case, CaseContext(environment, lifecycle, first))
            starts = starts and not (case.name == START and outcome.status == "FAILED")
            yield outcome


def cases_shown(lifecycle: Lifecycle) -> list[Case]:
    """All, but of two that have one name the one of this lifecycle."""
    asked = {case.name for case in CASES if lifecycle in case.lifecycles}
    return [case for case in CASES if lifecycle in case.lifecycles or case.name not in asked]


async def _tried(case: Case, context: CaseContext) -> Outcome:
    began_s = time.monotonic()
    remark, failure = None, None
    try:
        async with asyncio.timeout(context.environment.timeout_s):
            remark = await case.check(context)
    except CaseFailed as failed:
        failure = str(failed)
    except ProcessStuck as stuck:
        failure = f"it cannot be ended: {stuck}"
    except TimeoutError:
        failure = f"it hangs: waited for {_awaited(context)}, {context.environment.timeout_s:g} s in all"
    return Outcome(
        case=case.name,
        lifecycle=context.lifecycle,
        status="ok" if failure is None else "FAILED",
        asks=case.asks,
        remark=remark,
        message=failure,
        transcript=() if failure is None else _transcript(context),
        duration_s=time.monotonic() - began_s,
    )


def _awaited(context: CaseContext) -> str:
    return next(
        (each.record.waiting_for for each in reversed(context.trials) if each.record.waiting_for), "the coordinator"
    )


def _transcript(context: CaseContext) -> tuple[str, ...]:
    return tuple(line for process in context.trials for line in process.record.transcript.lines)


def _not_tried(case: Case, lifecycle: Lifecycle, status: Status, remark: str | None = None) -> Outcome:
    return Outcome(case=case.name, lifecycle=lifecycle, status=status, asks=case.asks, remark=remark)
