"""Shutdown, SIGTERM and leftovers (protocol.md, section 2, Stop)."""

from fsm_runner.conformance.case import PERSISTENT, CaseContext, case
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.executors.messages import SHUTDOWN_LINE


@case(
    "leaves-nothing",
    "When it exits, it leaves no process running, and no process holds its output open.",
    needs_start=True,
)
async def leaves_nothing(context: CaseContext) -> None:
    _check_no_leftovers(await context.first_turn())


@case("shutdown", 'On {"type": "shutdown"} it exits with 0 within 5 s.', lifecycles=PERSISTENT, needs_start=True)
async def shutdown(context: CaseContext) -> None:
    async with context.idle_process() as process:
        await process.write(SHUTDOWN_LINE)
        ended = await process.ended_within(context.grace_s, "shutdown")
        if ended.code != 0:
            raise CaseFailed(f"it exited {process.how_it_ended} after shutdown; expected exit code 0")


@case("end-of-input", "When its stdin is closed, it exits within 5 s.", lifecycles=PERSISTENT, needs_start=True)
async def end_of_input(context: CaseContext) -> None:
    async with context.idle_process() as process:
        process.close_input()
        await process.ended_within(context.grace_s, "the end of its stdin")


@case(
    "sigterm-at-work",
    "SIGTERM ends it and all its processes within 5 s while it waits for the gateway.",
    needs_start=True,
)
async def sigterm_at_work(context: CaseContext) -> str | None:
    async with context.process() as process:
        process.hold_requests()
        await process.write(context.line(process.run))
        if context.lifecycle == "one_shot":
            process.close_input()
        await process.record.until(
            lambda: bool(process.record.exchanges) or process.exit is not None, "its first request to the gateway"
        )
        if process.exit is not None:
            return "exited before SIGTERM"
        await process.terminated_within(context.grace_s)
        await process.ended()
        _check_no_leftovers(process)
    return None


@case(
    "sigterm-idle",
    "SIGTERM ends it and all its processes within 5 s while it waits for a turn.",
    lifecycles=PERSISTENT,
    needs_start=True,
)
async def sigterm_idle(context: CaseContext) -> None:
    async with context.idle_process() as process:
        await process.terminated_within(context.grace_s)
        await process.ended()
        _check_no_leftovers(process)


def _check_no_leftovers(process: ExecutorProcess) -> None:
    if process.leftovers:
        raise CaseFailed(f"it exited and left processes running: {', '.join(process.leftovers)}")
    if process.output_held:
        raise CaseFailed("it exited, but a process that it started still holds its stdout or stderr open")


CASES = (shutdown, end_of_input, sigterm_at_work, sigterm_idle, leaves_nothing)
