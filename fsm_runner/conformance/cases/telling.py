"""What it tells the coordinator in a plain start (protocol.md, sections 1.4 and 3)."""

import msgspec

from fsm_runner.conformance import judgement
from fsm_runner.conformance.attempt import Attempt
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.coordinator.wire import DECODE_FAULTS
from fsm_runner.json_text import decode_json


async def bind(attempt: Attempt) -> None:
    judgement.bound_first((await attempt.first_turn()).record.told())


async def accepted(attempt: Attempt) -> None:
    judgement.accepted((await attempt.first_turn()).record.told())


async def one_result(attempt: Attempt) -> None:
    judgement.one_result((await attempt.first_turn()).record.results(), "the start")


async def result_form(attempt: Attempt) -> None:
    for event in (await attempt.first_turn()).record.results():
        judgement.result_form(event.fields)


async def event_form(attempt: Attempt) -> None:
    for event in (await attempt.first_turn()).record.events():
        judgement.event_form(event.fields)


async def timestamps(attempt: Attempt) -> None:
    judgement.timestamps((await attempt.first_turn()).record.events())


class _TurnComplete(msgspec.Struct, frozen=True):
    type: str
    result: str


async def turn_complete(attempt: Attempt) -> None:
    completed = (await attempt.first_turn()).record.turns_completed
    if len(completed) != 1:
        raise CaseFailed(f"it wrote {len(completed)} turn_complete lines for one turn")
    try:
        decode_json(completed[0].line, _TurnComplete)
    except DECODE_FAULTS as defect:
        raise CaseFailed(f"its turn_complete line is not what the protocol says: {defect}") from None


async def told_first(attempt: Attempt) -> None:
    record = (await attempt.first_turn()).record
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
