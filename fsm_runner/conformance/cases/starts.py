"""A plain start, and the resume of a one-shot executor (protocol.md, section 2)."""

from fsm_runner.conformance import judgement
from fsm_runner.conformance.attempt import Attempt, said_error
from fsm_runner.conformance.case import Case, CaseFailed

REFUSED_CODE = 1


async def start(attempt: Attempt) -> None:
    await attempt.carry_out_first_turn()


async def resume(attempt: Attempt) -> str | None:
    async with attempt.trial() as first:
        await first.take_turn(attempt.line(first.run))
    async with attempt.trial(await attempt.stage.resume_run(first.run.session_id)) as second:
        await second.write(attempt.line(second.run))
        second.close_input()
        ended = await second.ended()
        if ended.code == REFUSED_CODE and said_error(second.stderr) and not second.record.events():
            return "refuses to resume"
        if ended.code != 0:
            raise CaseFailed(
                f"it ended {second.how_it_ended}; it may resume and exit with 0, or refuse with exit code 1, "
                "a line `Error: …` on stderr and no event"
            )
        judgement.one_result(second.record.results(), "the resume")
        judgement.timestamps([*first.record.events(), *second.record.events()])
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
