"""Starting and resuming child runs."""

import msgspec

from fsm_runner.coordinator.wire import DECODE_FAULTS, RunCreated
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.family import refuse_unless_child
from fsm_runner.gateway.forwarding import submit
from fsm_runner.gateway.messages import object_of, raw_fields
from fsm_runner.gateway.refusal import Refusal


async def create(call: Call) -> None:
    """`POST /runs` as the executor wrote it, but that the own session is the parent. Raises a 4xx `Refusal`.

    A start may name a session: the coordinator refuses one that exists.
    """
    body = await call.body.read()
    wanted = object_of(body)
    parent = wanted.get("parent_session_id")
    if parent is not None and parent != call.door.session_id:
        raise Refusal(403, "parent_session_id: another session than the one that this address was given to")
    match wanted.get("type"):
        case "start_session":
            pass
        case "resume_session":
            await _refuse_resume_of_others(call, wanted.get("session_id"))
        case _:
            raise Refusal(400, "type: expected start_session or resume_session")
    fields = raw_fields(body)
    fields["parent_session_id"] = msgspec.Raw(msgspec.json.encode(call.door.session_id))
    answer = await submit(call, msgspec.json.encode(fields))
    if answer is not None:
        _remember(call, answer)


async def _refuse_resume_of_others(call: Call, session_id: object) -> None:
    if not isinstance(session_id, str) or not session_id:
        raise Refusal(400, "session_id: expected for resume_session")
    await refuse_unless_child(call, session_id)


def _remember(call: Call, answer: bytes) -> None:
    try:
        created = msgspec.json.decode(answer, type=RunCreated)
    except DECODE_FAULTS:
        return  # not what section 1.3 says; the coordinator is asked then whose the session is
    if created.session_id != call.door.session_id:
        call.door.remember_child(created.session_id)
