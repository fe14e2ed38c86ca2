"""What an executor tells of its session: bind, events, metadata. The runner takes it over and delivers it in order.

Protocol.md, section 3. The coordinator's own answer is passed on where it comes soon; a coordinator that is away holds
no executor up.
"""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.response import Answer
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.content import Field, decode_fields, every_field, text, text_or_none
from fsm_runner.gateway.endpoint import GatewayEndpoint
from fsm_runner.gateway.errors import Refusal, not_found, other_session
from fsm_runner.gateway.responses import json_bytes, json_response
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.executor_status import take_executor_status
from fsm_runner.reporting.outbox import DeliveryFuture
from fsm_runner.reporting.session_channel import NoTurn, TooMuchUndelivered
from fsm_runner.util.text import excerpt

TAKEN_OVER: JsonObject = {"ok": True}
EVENTS_OF_THE_COORDINATOR = frozenset({"run_start", "run_completed"})
"""It writes them itself, from the runner's reports (section 1.4)."""
AFFINITY_FIELDS = ("hostname", "executor_profile")
"""A resume demands these two (section 1.3): with others of them a session would be another runner's."""


class _BindFields(msgspec.Struct, frozen=True):
    session_id: Field = UNSET
    executor_session_id: Field = UNSET
    project_dir: Field = UNSET


class _EventFields(msgspec.Struct, frozen=True):
    session_id: Field = UNSET
    event_type: Field = UNSET


_bind_fields = msgspec.json.Decoder(_BindFields)
_event_fields = msgspec.json.Decoder(_EventFields)


async def bind(call: Call, *, session_in_path: bool = False) -> None:
    fields = decode_fields(await call.body.read(), _bind_fields)
    _refuse_other_session(call, fields.session_id, required=not session_in_path)
    executor_session_id = text(fields.executor_session_id, "executor_session_id")
    project_dir = text_or_none(fields.project_dir, "project_dir") or None
    await _tell(call, lambda: call.endpoint.channel.bind(executor_session_id, project_dir), 200)


async def event(call: Call, *, session_in_path: bool = False) -> None:
    body = await call.body.read()
    fields = decode_fields(body, _event_fields)
    _refuse_other_session(call, fields.session_id, required=not session_in_path)
    _refuse_event_of_the_coordinator(fields.event_type)
    await _tell(call, lambda: call.endpoint.channel.event(body), 201)


async def metadata(call: Call, *, session_in_path: bool = False) -> None:
    fields = every_field(await call.body.read())
    _refuse_other_session(call, fields.pop("session_id", UNSET), required=not session_in_path)
    for name in AFFINITY_FIELDS:
        fields.pop(name, None)
    if (status := take_executor_status(fields)) is not None and not call.endpoint.closed.is_set():
        call.endpoint.channel.report_status(status)
        if not fields:
            await call.answer(json_response(TAKEN_OVER, 200))
            return
    await _tell(call, lambda: call.endpoint.channel.metadata(encode_json(fields)), 200)


def _refuse_other_session(call: Call, session_id: Field, *, required: bool) -> None:
    if not required and session_id is UNSET:
        return
    if text(session_id, "session_id") != call.endpoint.session_id:
        raise other_session()


def _refuse_event_of_the_coordinator(event_type: Field) -> None:
    kind = text_or_none(event_type, "event_type")
    if kind in EVENTS_OF_THE_COORDINATOR:
        raise Refusal(403, f"event_type: {kind} is written by the Agent Coordinator itself, from the run's reports")


async def _tell(call: Call, tell: Callable[[], DeliveryFuture], taken_status: int) -> None:
    if call.endpoint.closed.is_set():
        raise not_found()
    try:
        answered = tell()
    except TooMuchUndelivered as limit:
        call.endpoint.say_full(limit)
        raise Refusal(502, excerpt(str(limit))) from None
    except NoTurn as reason:
        raise Refusal(409, excerpt(str(reason))) from None
    call.endpoint.say_taken()
    await _hold(call.endpoint, answered)
    await call.answer(_response(answered) if answered.done() else json_response(TAKEN_OVER, taken_status))


async def _hold(endpoint: GatewayEndpoint, answered: DeliveryFuture) -> None:
    """Until it is answered or the time is over; not at all while one before it still waits behind its own hold."""
    if endpoint.is_overdue:
        return
    # Whoever stops waiting does not stop the message: the future is looked at, not awaited.
    await asyncio.wait({answered}, timeout=endpoint.limits.hold_s)
    if not answered.done():
        endpoint.say_overdue(answered)


def _response(answered: DeliveryFuture) -> Response:
    if answered.cancelled():
        raise Refusal(502, "The runner has given the message up: the session is over")
    answer: Answer | Refused = answered.result()
    if not answer.status:
        raise Refusal(502, "The message could not be sent to the Agent Coordinator")
    if not answer.body:
        raise Refusal(answer.status, "The Agent Coordinator does not take the message")
    return json_bytes(answer.body, answer.status)
