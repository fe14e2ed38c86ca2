"""The messages of a plain start (protocol.md, sections 1.4 and 3)."""

import msgspec

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import Case, CaseContext
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS


async def bind(context: CaseContext) -> None:
    assertions.bound_first((await context.first_turn()).record.session_messages())


async def accepted(context: CaseContext) -> None:
    assertions.all_accepted((await context.first_turn()).record.session_messages())


async def one_result(context: CaseContext) -> None:
    assertions.one_result((await context.first_turn()).record.results(), "the start")


async def result_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.results():
        assertions.valid_result(event.fields)


async def event_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.events():
        assertions.valid_event(event.fields)


async def timestamps(context: CaseContext) -> None:
    assertions.valid_timestamps((await context.first_turn()).record.events())


class _TurnComplete(msgspec.Struct, frozen=True):
    type: str
    result: str


async def turn_complete(context: CaseContext) -> None:
    completed = (await context.first_turn()).record.turns_completed
    if len(completed) != 1:
        raise CaseFailed(f"it wrote {len(completed)} turn_complete lines for one turn")
    try:
        decode_json(completed[0].line, _TurnComplete)
    except DECODE_FAULTS as defect:
        raise CaseFailed(f"its turn_complete line is invalid: {defect}") from None


async def told_first(context: CaseContext) -> None:
    record = (await context.first_turn()).record
    completed_at = record.turns_completed[0].at
    for each in record.session_messages():
        if each.kind != "metadata" and (each.responded_at is None or each.responded_at > completed_at):
            raise CaseFailed(f"it wrote turn_complete before the gateway had accepted a message: {each}")


CASES = (
    Case(
        name="bind",
        asks="It binds its session (POST /bind) before it sends events.",
        check=bind,
        needs_start=True,
    ),
    Case(
        name="accepted",
        asks="All its messages are about its own session, and the gateway accepts them.",
        check=accepted,
        needs_start=True,
    ),
    Case(name="one-result", asks="It sends one result event per turn.", check=one_result, needs_start=True),
    Case(
        name="result-form",
        asks="A result event has either result_text, a string, or result_data, an object.",
        check=result_form,
        needs_start=True,
    ),
    Case(
        name="event-form",
        asks="Its events have a known type and the fields of that type.",
        check=event_form,
        needs_start=True,
    ),
    Case(
        name="timestamps",
        asks="The timestamps of its events are UTC, have one format and width, and never go backwards.",
        check=timestamps,
        needs_start=True,
    ),
    Case(
        name="turn-complete",
        asks='It writes {"type": "turn_complete", "result": "…"} once per turn.',
        check=turn_complete,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="told-first",
        asks="It writes turn_complete after the gateway has accepted its bind and events.",
        check=told_first,
        lifecycles=("persistent",),
        needs_start=True,
    ),
)
