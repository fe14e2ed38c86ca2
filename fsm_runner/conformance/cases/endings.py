"""How it ends (protocol.md, section 2, Stop)."""

from fsm_runner.conformance.attempt import Attempt
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.trial import Trial
from fsm_runner.executors.messages import SHUTDOWN_LINE


async def leaves_nothing(attempt: Attempt) -> None:
    _refuse_leftovers(await attempt.first_turn())


async def shutdown(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        await trial.write(SHUTDOWN_LINE)
        ended = await trial.ended_within(attempt.grace_s, "shutdown")
        if ended.code != 0:
            raise CaseFailed(f"it ended {trial.how_it_ended} after shutdown, where exit code 0 is asked for")


async def end_of_input(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        trial.close_input()
        await trial.ended_within(attempt.grace_s, "the end of its stdin")


async def sigterm_at_work(attempt: Attempt) -> str | None:
    async with attempt.trial() as trial:
        trial.hold_requests()
        await trial.write(attempt.line(trial.run))
        if attempt.lifecycle == "one_shot":
            trial.close_input()
        await trial.record.until(
            lambda: bool(trial.record.exchanges) or trial.exit is not None, "its first request to the gateway"
        )
        if trial.exit is not None:
            return "had ended before"
        await trial.terminated_within(attempt.grace_s)
        await trial.ended()
        _refuse_leftovers(trial)
    return None


async def sigterm_idle(attempt: Attempt) -> None:
    async with attempt.idle_trial() as trial:
        await trial.terminated_within(attempt.grace_s)
        await trial.ended()
        _refuse_leftovers(trial)


def _refuse_leftovers(trial: Trial) -> None:
    if trial.left_behind:
        raise CaseFailed(f"it ended and left something running: {', '.join(trial.left_behind)}")
    if trial.output_held:
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
