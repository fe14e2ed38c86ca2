"""Starting and resuming child runs."""

import msgspec
from msgspec import UNSET

from fsm_runner.gateway.authorization import is_child
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.content import Field, every_field, text, text_or_none
from fsm_runner.gateway.errors import Refusal
from fsm_runner.gateway.forwarding import submit
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, RunCreated


async def create(call: Call) -> None:
    """`POST /runs` as the executor wrote it, but that the own session is the parent. Raises a 4xx `Refusal`."""
    fields = every_field(await call.body.read())
    _refuse_other_parent(call, fields.get("parent_session_id", UNSET))
    match text_or_none(fields.get("type", UNSET), "type"):
        case "start_session":
            _refuse_named_session(fields.pop("session_id", UNSET))
        case "resume_session":
            if not await is_child(call, text(fields.get("session_id", UNSET), "session_id")):
                raise Refusal(403, "session_id: through this address its own children alone are resumed")
        case _:
            raise Refusal(400, "type: expected start_session or resume_session")
    fields["parent_session_id"] = msgspec.Raw(encode_json(call.endpoint.session_id))
    answer = await submit(call, encode_json(fields))
    if answer is not None:
        _remember(call, answer)


def _refuse_other_parent(call: Call, parent_session_id: Field) -> None:
    if text_or_none(parent_session_id, "parent_session_id") not in {None, call.endpoint.session_id}:
        raise Refusal(403, "parent_session_id: another session than the one that this address was given to")


def _refuse_named_session(session_id: Field) -> None:
    """The coordinator's answer to a name would tell whether somebody has a session of it."""
    if text_or_none(session_id, "session_id"):
        raise Refusal(403, "session_id: start_session gets a new session, which the Agent Coordinator names")


def _remember(call: Call, answer: bytes) -> None:
    try:
        created = decode_json(answer, RunCreated)
    except DECODE_FAULTS:
        return  # not what section 1.3 says; the coordinator is asked then whose the session is
    if created.session_id != call.endpoint.session_id:
        call.endpoint.remember_child(created.session_id)
