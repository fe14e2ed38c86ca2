"""Whose a session or run is: the door's own, a child of it, or somebody else's.

Somebody else's and one that does not exist are the same here, so that nobody can try out which there are.
"""

from typing import TypeVar

import httpx
import msgspec

from fsm_runner.gateway.call import Call
from fsm_runner.gateway.errors import away
from fsm_runner.gateway.forwarding import look_up
from fsm_runner.gateway.paths import is_plain
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS

Form = TypeVar("Form")


class Session(msgspec.Struct, frozen=True):
    session_id: str
    parent_session_id: str | None = None


class _SessionAnswer(msgspec.Struct, frozen=True):
    session: Session


class RunOwner(msgspec.Struct, frozen=True):
    """As much of a run as tells whose it is."""

    run_id: str
    session_id: str
    parent_session_id: str | None = None


async def refuse_unless_own_or_child(call: Call, session_id: str) -> None:
    """Raises a 403 `Refusal`, or a 502 one where the coordinator cannot be asked."""
    if session_id != call.endpoint.session_id:
        await refuse_unless_child(call, session_id)


async def refuse_unless_child(call: Call, session_id: str) -> None:
    """The same. The own session is none."""
    if not await is_child(call, session_id):
        raise call.not_open()


async def refuse_unless_own_or_child_run(call: Call, run_id: str) -> None:
    run = await _run(call, run_id)
    if call.endpoint.session_id not in (run.session_id, run.parent_session_id):
        await refuse_unless_child(call, run.session_id)


async def refuse_unless_child_run(call: Call, run_id: str) -> None:
    await refuse_unless_child(call, (await _run(call, run_id)).session_id)


async def is_child(call: Call, session_id: str) -> bool:
    """Whether the door's own session is its parent. Raises a 502 `Refusal` where the coordinator cannot be asked."""
    endpoint = call.endpoint
    if session_id == endpoint.session_id or not is_plain(session_id):
        return False
    if endpoint.has_child(session_id):
        return True
    answer = _found(await look_up(call, ("sessions", session_id)), _SessionAnswer)
    if answer is None or answer.session != Session(session_id, endpoint.session_id):
        return False
    endpoint.remember_child(session_id)
    return True


async def _run(call: Call, run_id: str) -> RunOwner:
    run = _found(await look_up(call, ("runs", run_id)), RunOwner)
    if run is None or run.run_id != run_id:
        raise call.not_open()
    return run


def _found(answer: httpx.Response, form: type[Form]) -> Form | None:
    """None where there is no such thing. Raises a 502 `Refusal` for anything that is not a coordinator's answer."""
    if answer.status_code in {httpx.codes.NOT_FOUND, httpx.codes.UNPROCESSABLE_ENTITY}:
        return None
    if not answer.is_success:
        raise away()
    try:
        return decode_json(answer.content, form)
    except DECODE_FAULTS:
        raise away() from None
