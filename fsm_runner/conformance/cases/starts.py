"""A plain start, and the resume of a one-shot executor (protocol.md, section 2)."""

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import ONE_SHOT, PERSISTENT, REFUSED_CODE, CaseContext, case, has_error_line
from fsm_runner.conformance.result import CaseFailed


async def _start(context: CaseContext) -> None:
    await context.run_first_turn()


start = case("start", "It completes a start and exits by itself with 0.", lifecycles=ONE_SHOT)(_start)
persistent_start = case(
    "start",
    'It completes a start, and writes and flushes a line {"type": "turn_complete"} on stdout.',
    lifecycles=PERSISTENT,
)(_start)


@case(
    "resume",
    "A new process completes a resume with a new result, or refuses it with an error.",
    lifecycles=ONE_SHOT,
    needs_start=True,
)
async def resume(context: CaseContext) -> str | None:
    async with context.process() as first:
        await first.run_turn(context.line(first.run))
    async with context.process(await context.environment.resume_run(first.run.session_id)) as second:
        await second.write(context.line(second.run))
        second.close_input()
        ended = await second.ended()
        if ended.code == REFUSED_CODE and has_error_line(second.stderr) and not second.record.events():
            return "refuses to resume"
        if ended.code != 0:
            raise CaseFailed(
                f"it exited {second.how_it_ended}; expected exit code 0, or a refusal with exit code 1, "
                "a line `Error: …` on stderr and no event"
            )
        assertions.one_result(second.record.results(), "the resume")
        assertions.valid_timestamps([*first.record.events(), *second.record.events()])
    return None


CASES = (start, persistent_start, resume)
