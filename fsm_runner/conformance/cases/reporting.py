"""The messages of a plain start (protocol.md, sections 1.4 and 3)."""

import msgspec

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import PERSISTENT, CaseContext, case
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS


@case("bind", "It binds its session (POST /bind) before it sends events.", needs_start=True)
async def bind(context: CaseContext) -> None:
    assertions.bound_first((await context.first_turn()).record.session_messages())


@case("accepted", "All its messages are about its own session, and the gateway accepts them.", needs_start=True)
async def accepted(context: CaseContext) -> None:
    assertions.all_accepted((await context.first_turn()).record.session_messages())


@case("one-result", "It sends one result event per turn.", needs_start=True)
async def one_result(context: CaseContext) -> None:
    assertions.one_result((await context.first_turn()).record.results(), "the start")


@case("result-form", "A result event has either result_text, a string, or result_data, an object.", needs_start=True)
async def result_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.results():
        assertions.valid_result(event.fields)


@case("event-form", "Its events have a known type and the fields of that type.", needs_start=True)
async def event_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.events():
        assertions.valid_event(event.fields)


@case(
    "timestamps",
    "The timestamps of its events are UTC, have one format and width, and never go backwards.",
    needs_start=True,
)
async def timestamps(context: CaseContext) -> None:
    assertions.valid_timestamps((await context.first_turn()).record.events())


class _TurnComplete(msgspec.Struct, frozen=True):
    type: str
    result: str
    limited: bool = False


@case(
    "turn-complete",
    'It writes {"type": "turn_complete", "result": "…"} once per turn.',
    lifecycles=PERSISTENT,
    needs_start=True,
)
async def turn_complete(context: CaseContext) -> None:
    completed = (await context.first_turn()).record.turns_completed
    if len(completed) != 1:
        raise CaseFailed(f"it wrote {len(completed)} turn_complete lines for one turn")
    try:
        line = decode_json(completed[0].line, _TurnComplete)
    except DECODE_FAULTS as defect:
        raise CaseFailed(f"its turn_complete line is invalid: {defect}") from None
    if line.limited:
        raise CaseFailed("its turn_complete line says that the turn ended at a limit of the provider")


@case(
    "told-first",
    "It writes turn_complete after the gateway has accepted its bind and events.",
    lifecycles=PERSISTENT,
    needs_start=True,
)
async def told_first(context: CaseContext) -> None:
    record = (await context.first_turn()).record
    completed_at = record.turns_completed[0].at
    for each in record.session_messages():
        if each.kind != "metadata" and (each.responded_at is None or each.responded_at > completed_at):
            raise CaseFailed(f"it wrote turn_complete before the gateway had accepted a message: {each}")


CASES = (bind, accepted, one_result, result_form, event_form, timestamps, turn_complete, told_first)
