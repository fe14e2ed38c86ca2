"""The list of what is open to executors. Everything else is refused, whatever the coordinator would say to it."""

from fsm_runner.gateway import authorization, messages, runs
from fsm_runner.gateway.call import Call
from fsm_runner.gateway.errors import Refusal
from fsm_runner.gateway.forwarding import pass_on


async def carry_out(call: Call) -> None:
    """Raises a `Refusal` where it is not answered."""
    own = call.endpoint.session_id
    match call.method, call.names:
        case "POST", ("bind",):
            await messages.bind(call)
        case "POST", ("events",):
            await messages.event(call)
        case "PATCH", ("metadata",):
            await messages.metadata(call)
        case "POST", ("sessions", session_id, "bind") if session_id == own:
            await messages.bind(call, session_in_path=True)
        case "POST", ("sessions", session_id, "events") if session_id == own:
            await messages.event(call, session_in_path=True)
        case "PATCH", ("sessions", session_id, "metadata") if session_id == own:
            await messages.metadata(call, session_in_path=True)
        case _:
            with call.endpoint.forwarding():
                await call.unless_hung_up(_forward(call))


async def _forward(call: Call) -> None:
    match call.method, call.names:
        case "POST", ("runs",):
            await runs.create(call)
        case "POST", ("runs", run_id, "stop"):
            call.body.let_go_if_none()
            await authorization.refuse_unless_child_run(call, run_id)
            await pass_on(call)
        case "POST", ("sessions", session_id, "stop"):
            call.body.let_go_if_none()
            await authorization.refuse_unless_child(call, session_id)
            await pass_on(call)
        case "GET", names:
            call.body.let_go()
            await _read(call, names)
        case _:
            raise call.not_open()


async def _read(call: Call, names: tuple[str, ...]) -> None:
    match names:
        case ("health",) | ("agents", _):
            await pass_on(call)
        case ("agents",):
            await pass_on(call, call.query("tags"))
        case ("sessions", session_id) | ("sessions", session_id, "status" | "result" | "events" | "affinity"):
            await authorization.refuse_unless_own_or_child(call, session_id)
            await pass_on(call)
        case ("runs", run_id):
            await authorization.refuse_unless_own_or_child_run(call, run_id)
            await pass_on(call)
        case ("sse", "sessions"):
            await _stream_of_session(call)
        case _:
            raise call.not_open()


async def _stream_of_session(call: Call) -> None:
    """Without a session it would tell of everybody's."""
    query = call.query("session_id", "include_init")
    if "session_id" not in query:
        raise Refusal(403, "The stream of all sessions is not open to executors: name one with session_id")
    await authorization.refuse_unless_own_or_child(call, query["session_id"])
    await pass_on(call, query)
