"""Messages of an executor about its session: bind, events and metadata (protocol.md, section 3).

The runner delivers them in order. If the coordinator responds within `hold_s`, the executor gets that response;
otherwise it learns that the runner has accepted the message, so that an outage delays no executor.
"""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.gateway.errors import GatewayError, not_found
from fsm_runner.gateway.request import EveryField, Field, GatewayRequest, decode_fields, required_text, text_or_none
from fsm_runner.http_server.responses import json_response
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.reporting.executor_status import take_executor_status
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.session_channel import NULL, ExecutorEvent, NoTurn, TooMuchUndelivered
from fsm_runner.util.text import excerpt

EVENTS_OF_THE_COORDINATOR = frozenset({"run_start", "run_completed"})
"""The coordinator writes these itself, from the runner's reports (section 1.4)."""
RUNNERS_FIELDS = ("hostname", "executor_profile", "workflow")
"""Fields of a session that only the runner sets. A resume demands the runner that the first two name (section 1.3), and
an approval is decided by what the last one shows (section 1.4)."""


class _BindFields(msgspec.Struct, frozen=True):
    session_id: Field = UNSET
    executor_session_id: Field = UNSET
    project_dir: Field = UNSET


class _EventFields(msgspec.Struct, frozen=True):
    session_id: Field = UNSET
    event_type: Field = UNSET
    role: Field = UNSET
    result_text: Field = UNSET
    result_data: Field = UNSET


async def bind(request: GatewayRequest) -> None:
    fields = decode_fields(await request.body.read(), _BindFields)
    _check_session(request, fields.session_id)
    executor_session_id = required_text(fields.executor_session_id, "executor_session_id")
    project_dir = text_or_none(fields.project_dir, "project_dir") or None
    await _deliver(request, lambda: request.endpoint.channel.bind(executor_session_id, project_dir), 200)


async def event(request: GatewayRequest) -> None:
    body = await request.body.read()
    fields = decode_fields(body, _EventFields)
    _check_session(request, fields.session_id)
    kind = text_or_none(fields.event_type, "event_type")
    if kind in EVENTS_OF_THE_COORDINATOR:
        raise GatewayError(403, f"event_type: the Agent Coordinator writes {kind} itself, from the run's reports")
    noted = ExecutorEvent(kind or "", _text(fields.role), _value(fields.result_text), _value(fields.result_data))
    await _deliver(request, lambda: request.endpoint.channel.event(noted, body), 201)


async def metadata(request: GatewayRequest) -> None:
    fields = decode_fields(await request.body.read(), EveryField)
    _check_session(request, fields.pop("session_id", UNSET))
    for name in RUNNERS_FIELDS:
        fields.pop(name, None)
    status = take_executor_status(fields, request.endpoint.session_id)
    if status is not None and not request.endpoint.closed.is_set():
        request.endpoint.channel.observer.note_status(status)
        if not fields:
            await request.respond(json_response({"ok": True}))
            return
    await _deliver(request, lambda: request.endpoint.channel.metadata(encode_json(fields)), 200)


def _text(field: Field) -> str | None:
    """Return a field that the coordinator checks; None if it is no text."""
    try:
        return None if field is UNSET else msgspec.json.decode(field, type=str)
    except DECODE_FAULTS:
        return None


def _value(field: Field) -> msgspec.Raw:
    return NULL if field is UNSET else field


def _check_session(request: GatewayRequest, session_id: Field) -> None:
    """Raise a 403 `GatewayError` if a body names another session, or a 400 one if only the body can name it."""
    is_in_path = len(request.names) > 1
    if session_id is UNSET and is_in_path:
        return
    if required_text(session_id, "session_id") != request.endpoint.session_id:
        raise GatewayError(403, "session_id: this base URL belongs to another session")


async def _deliver(request: GatewayRequest, enqueue: Callable[[], DeliveryFuture | None], accepted_status: int) -> None:
    endpoint = request.endpoint
    if endpoint.closed.is_set():
        raise not_found()
    try:
        delivery = enqueue()
    except TooMuchUndelivered as limit:
        endpoint.message_refused(limit)
        raise GatewayError(502, excerpt(str(limit))) from None
    except NoTurn as reason:
        raise GatewayError(409, excerpt(str(reason))) from None
    endpoint.message_accepted()
    if delivery is None:
        await request.respond(json_response({"ok": True}, accepted_status))
        return
    # Behind an overdue message, waiting would be in vain.
    if not endpoint.has_overdue:
        # `wait` leaves the delivery as it is if the client disconnects or the time is over; awaiting would cancel it.
        await asyncio.wait({delivery}, timeout=endpoint.limits.hold_s)
        if not delivery.done():
            endpoint.add_overdue(delivery)
    await request.respond(_response(delivery) if delivery.done() else json_response({"ok": True}, accepted_status))


def _response(delivery: DeliveryFuture) -> Response:
    if delivery.cancelled():
        raise GatewayError(502, "The runner has dropped the message: the session is over")
    response: ApiResponse | Refused = delivery.result()
    if not response.status:
        raise GatewayError(502, "The message could not be sent to the Agent Coordinator")
    if not response.body:
        raise GatewayError(response.status, "The Agent Coordinator refused the message without a reason")
    return Response(response.body, status_code=response.status, media_type="application/json")
