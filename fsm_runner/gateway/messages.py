"""What an executor tells of its session: bind, events, metadata. The runner takes it over and delivers it in order.

Protocol.md, section 3. The coordinator's own answer is passed on where it comes soon; a coordinator that is away holds
no executor up.
"""

import asyncio
from collections.abc import Callable

import msgspec
from starlette.responses import Response

from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.outbox import Answered
from fsm_runner.coordinator.transport import Answer
from fsm_runner.coordinator.wire import DECODE_FAULTS, JsonObject
from fsm_runner.executors.port import NoTurn, TooMuchUndelivered
from fsm_runner.gateway.answers import json_bytes, json_response
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.refusal import Refusal, not_found, other_session, shown

TAKEN_OVER: JsonObject = {"ok": True}


async def bind(call: Call, *, session_in_path: bool = False) -> None:
    fields = object_of(await call.body.read())
    _refuse_other_session(call, fields, required=not session_in_path)
    executor_session_id = _text(fields, "executor_session_id")
    project_dir = None if fields.get("project_dir") is None else _text(fields, "project_dir")
    await _tell(call, lambda: call.door.channel.bind(executor_session_id, project_dir), 200)


async def event(call: Call, *, session_in_path: bool = False) -> None:
    body = await call.body.read()
    _refuse_other_session(call, object_of(body), required=not session_in_path)
    await _tell(call, lambda: call.door.channel.event(body), 201)


async def metadata(call: Call, *, session_in_path: bool = False) -> None:
    body = await call.body.read()
    _refuse_other_session(call, object_of(body), required=not session_in_path)
    fields = raw_fields(body)
    fields.pop("session_id", None)
    await _tell(call, lambda: call.door.channel.metadata(msgspec.json.encode(fields)), 200)


def object_of(body: bytes) -> JsonObject:
    """All of it decoded: what the coordinator could not read would be tried for ever. Raises a 400 `Refusal`."""
    if not body:
        raise Refusal(400, "The body is missing: a JSON object is expected")
    try:
        fields: object = msgspec.json.decode(body)
    except DECODE_FAULTS as defect:
        raise Refusal(400, f"The body is no JSON: {defect}") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "The body is no JSON object")
    return fields


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of what `object_of` has read, each as it was written."""
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


def _refuse_other_session(call: Call, fields: JsonObject, *, required: bool) -> None:
    if not required and "session_id" not in fields:
        return
    if _text(fields, "session_id") != call.door.session_id:
        raise other_session()


def _text(fields: JsonObject, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(400, f"{name}: a text is expected that is not empty")
    return value


async def _tell(call: Call, tell: Callable[[], Answered], taken_status: int) -> None:
    if call.door.closed.is_set():
        raise not_found()
    try:
        answered = tell()
    except TooMuchUndelivered as limit:
        call.door.say_full(limit)
        raise Refusal(502, shown(str(limit))) from None
    except NoTurn as reason:
        raise Refusal(409, shown(str(reason))) from None
    call.door.say_taken()
    # Whoever stops waiting does not stop the message: the future is looked at, not awaited.
    await asyncio.wait({answered}, timeout=call.door.limits.hold_s)
    await call.answer(_response(answered) if answered.done() else json_response(TAKEN_OVER, taken_status))


def _response(answered: Answered) -> Response:
    if answered.cancelled():
        raise Refusal(502, "The runner has given the message up: the session is over")
    answer: Answer | Refused = answered.result()
    if not answer.status:
        raise Refusal(502, "The message could not be sent to the Agent Coordinator")
    if not answer.body:
        raise Refusal(answer.status, "The Agent Coordinator does not take the message")
    return json_bytes(answer.body, answer.status)
