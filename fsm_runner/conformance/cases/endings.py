"""How it ends (protocol.md, section 2, Stop)."""

from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.executors.messages import SHUTDOWN_LINE


async def leaves_nothing(context: CaseContext) -> None:
    _refuse_leftovers(await context.first_turn())


async def shutdown(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        await process.write(SHUTDOWN_LINE)
        ended = await process.ended_within(context.grace_s, "shutdown")
        if ended.code != 0:
            raise CaseFailed(f"it ended {process.how_it_ended} after shutdown, where exit code 0 is asked for")


async def end_of_input(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        process.close_input()
        await process.ended_within(context.grace_s, "the end of its stdin")


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
            return "had ended before"
        await process.terminated_within(context.grace_s)
        await process.ended()
        _refuse_leftovers(process)
    return None


async def sigterm_idle(context: CaseContext) -> None:
    async with context.idle_trial() as process:
        await process.terminated_within(context.grace_s)
        await process.ended()
        _refuse_leftovers(process)


def _refuse_leftovers(process: ExecutorProcess) -> None:
    if process.recovered:
        raise CaseFailed(f"it ended and left something running: {', '.join(process.recovered)}")
    if process.output_held:
        raise CaseFailed("it ended, and something that it has started still holds its stdout or stderr open")


CASES = (
    Case(
        name="shutdown",
        asks='{"type": "shutdown"} ends it with exit code 0, within 5 s.',
        check=shutdown,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="end-of-input",
        asks="The end of its stdin ends it, within 5 s.",
        check=end_of_input,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="sigterm-at-work",
        asks="SIGTERM ends it within 5 s while it waits for the gateway, and nothing of it is left.",
        check=sigterm_at_work,
        needs_start=True,
    ),
    Case(
        name="sigterm-idle",
        asks="SIGTERM ends it within 5 s while it waits for a turn, and nothing of it is left.",
        check=sigterm_idle,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="leaves-nothing",
        asks="When it ends, nothing that it has started is left, and nothing holds its output open.",
        check=leaves_nothing,
        needs_start=True,
    ),
)
