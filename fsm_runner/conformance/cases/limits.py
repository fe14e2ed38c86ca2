"""A turn that ends at a limit of the provider (protocol.md, section 2.3)."""

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import REFUSED_CODE, CaseContext, case, has_error_line, json_line
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.conformance.record import TurnComplete
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject


@case(
    "limited",
    "At a limit of its provider it sends `limit`, ends the turn without a result, and can continue.",
    needs_start=True,
    needs_limit=True,
)
async def limited(context: CaseContext) -> str:
    async with context.process() as process:
        lives_on = await _reaches_limit(context, process)
        if lives_on:
            await process.run_turn(json_line({"type": "turn", "parameters": context.environment.parameters}))
            completed = process.record.turns_completed[-1]
            assertions.one_result(process.record.results(), "the turn after the limit")
            if _line(completed).get("limited"):
                raise CaseFailed("it marked the turn after the limit, which has a result, as limited")
            return "lives on"
    await _continues(context, process)
    return "exits"


async def _reaches_limit(context: CaseContext, process: ExecutorProcess) -> bool:
    """Run a turn that ends at a limit. Return whether the process lives on. Raises `CaseFailed`."""
    record = process.record
    await process.write(context.line(process.run, parameters=context.environment.limited_parameters))
    if context.lifecycle == "one_shot":
        process.close_input()
        await process.ended()
    else:
        await record.until(
            lambda: bool(record.turns_completed) or process.exit is not None, "the end of a turn that is limited"
        )
    limits = [each for each in record.runner_metadata() if each.fields.get("limit") is not None]
    if not limits:
        raise CaseFailed("it sent no metadata with a limit, with the parameters of --limited-parameters")
    assertions.all_accepted(limits)
    assertions.valid_status(limits[-1].fields)
    if record.results():
        raise CaseFailed("it sent a result event in a turn that ended at a limit")
    assertions.not_withdrawn(limits[-1], record.session_messages())
    if context.lifecycle == "persistent" and record.turns_completed:
        _check_line(record.turns_completed[0], limits[-1].responded_at)
        return True
    ended = await process.ended()
    if ended.code == 0:
        raise CaseFailed("it exited with exit code 0 at a limit; expected another exit code")
    return False


def _check_line(completed: TurnComplete, accepted_at: float | None) -> None:
    if _line(completed).get("limited") is not True:
        raise CaseFailed('its turn_complete line has no `"limited": true`, so the turn counts as successful')
    if not isinstance(_line(completed).get("result"), str):
        raise CaseFailed("its turn_complete line has no result (a string, which is empty at a limit)")
    if accepted_at is None or accepted_at > completed.at:
        raise CaseFailed("it wrote turn_complete before the gateway had accepted the limit")


async def _continues(context: CaseContext, limited: ExecutorProcess) -> None:
    """As a runner does: with a resume, or with the run itself if the session was not bound."""
    run, is_bound = limited.run, any(each.accepted for each in limited.record.binds())
    if is_bound:
        run = await context.environment.resume_run(run.session_id)
    async with context.process(run) as process:
        try:
            await process.run_turn(context.line(run))
        except CaseFailed:
            if is_bound and _refuses(process):
                raise CaseFailed(
                    "it refuses to resume the session that it had bound before the limit, so the run cannot continue"
                ) from None
            raise
        assertions.one_result(process.record.results(), "the turn after the limit")


def _refuses(process: ExecutorProcess) -> bool:
    return process.exit is not None and process.exit.code == REFUSED_CODE and has_error_line(process.stderr)


def _line(completed: TurnComplete) -> JsonObject:
    try:
        return decode_json(completed.line, JsonObject)
    except DECODE_FAULTS:
        return {}


CASES = (limited,)
