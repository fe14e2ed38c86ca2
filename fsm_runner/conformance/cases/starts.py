"""A plain start, and the resume of a one-shot executor (protocol.md, section 2)."""

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext, said_error

REFUSED_CODE = 1


async def start(context: CaseContext) -> None:
    await context.carry_out_first_turn()


async def resume(context: CaseContext) -> str | None:
    async with context.process() as first:
        await first.take_turn(context.line(first.run))
    async with context.process(await context.environment.resume_run(first.run.session_id)) as second:
        await second.write(context.line(second.run))
        second.close_input()
        ended = await second.ended()
        if ended.code == REFUSED_CODE and said_error(second.stderr) and not second.record.events():
            return "refuses to resume"
        if ended.code != 0:
            raise CaseFailed(
                f"it ended {second.how_it_ended}; it may resume and exit with 0, or refuse with exit code 1, "
                "a line `Error: …` on stderr and no event"
            )
        assertions.one_result(second.record.results(), "the resume")
        assertions.timestamps([*first.record.events(), *second.record.events()])
    return None


CASES = (
    Case(
        name="start",
        asks="It carries out a start and ends by itself with exit code 0.",
        check=start,
        lifecycles=("one_shot",),
    ),
    Case(
        name="start",
        asks='It carries out a start and says {"type": "turn_complete"} on a line of stdout, which it flushes.',
        check=start,
        lifecycles=("persistent",),
    ),
    Case(
        name="resume",
        asks="A new process carries out a resume with a result of its own, or refuses it with an error.",
        check=resume,
        lifecycles=("one_shot",),
        needs_start=True,
    ),
)
