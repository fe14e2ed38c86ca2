"""What it tells the coordinator in a plain start (protocol.md, sections 1.4 and 3)."""

import msgspec

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS


async def bind(context: CaseContext) -> None:
    assertions.bound_first((await context.first_turn()).record.told())


async def accepted(context: CaseContext) -> None:
    assertions.accepted((await context.first_turn()).record.told())


async def one_result(context: CaseContext) -> None:
    assertions.one_result((await context.first_turn()).record.results(), "the start")


async def result_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.results():
        assertions.result_form(event.fields)


async def event_form(context: CaseContext) -> None:
    for event in (await context.first_turn()).record.events():
        assertions.event_form(event.fields)


async def timestamps(context: CaseContext) -> None:
    assertions.timestamps((await context.first_turn()).record.events())


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
        raise CaseFailed(f"its turn_complete line is not what the protocol says: {defect}") from None


async def told_first(context: CaseContext) -> None:
    record = (await context.first_turn()).record
    completed_at = record.turns_completed[0].at
    for each in record.told():
        if each.kind != "metadata" and (each.answered_at is None or each.answered_at > completed_at):
            raise CaseFailed(f"it wrote turn_complete before the gateway had accepted this: {each}")


CASES = (
    Case(
        name="bind",
        asks="It binds its session (POST /bind) before it sends events.",
        check=bind,
        needs_start=True,
    ),
    Case(
        name="accepted",
        asks="All that it tells is of its own session, and in a form that is accepted.",
        check=accepted,
        needs_start=True,
    ),
    Case(name="one-result", asks="It sends one result event for a turn.", check=one_result, needs_start=True),
    Case(
        name="result-form",
        asks="A result event has either result_text, a string, or result_data, an object.",
        check=result_form,
        needs_start=True,
    ),
    Case(
        name="event-form",
        asks="Its events are of a kind that there is, with the fields of that kind.",
        check=event_form,
        needs_start=True,
    ),
    Case(
        name="timestamps",
        asks="The timestamps of its events are UTC, in one format and width, and do not go backwards.",
        check=timestamps,
        needs_start=True,
    ),
    Case(
        name="turn-complete",
        asks='It writes {"type": "turn_complete", "result": "…"} once for a turn.',
        check=turn_complete,
        lifecycles=("persistent",),
        needs_start=True,
    ),
    Case(
        name="told-first",
        asks="Its bind and events have been accepted before it says turn_complete.",
        check=told_first,
        lifecycles=("persistent",),
        needs_start=True,
    ),
)
