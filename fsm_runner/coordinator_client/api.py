"""One method for each call of the coordinator's API: one attempt, typed answer or typed fault.

Trying again is not done here; `client.py` and `outbox.py` do it with the numbers of `policy.py`.
Contract: protocol.md, section 1.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

import httpx
import msgspec

from fsm_runner.coordinator_client.errors import Unreachable
from fsm_runner.coordinator_client.policy import (
    CONTROL_TIMEOUT_S,
    POLL_MARGIN_S,
    POLL_NAMES_LIMIT,
    REPORT_CONNECTIONS,
)
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.transport import Transport
from fsm_runner.protocol import wire
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.statuses import RunStatus
from fsm_runner.protocol.urls import path_segment
from fsm_runner.util.text import excerpt

NO_CONTENT = 204

Form = TypeVar("Form")
_Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=POLL_NAMES_LIMIT)]


class UnreadableRun(msgspec.Struct, frozen=True):
    """A run that was handed out but is not what section 1.2 says; it can only be reported as failed."""

    run_id: str
    defect: str


class Polled(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll brought; all empty where the coordinator had nothing."""

    run: wire.Run | UnreadableRun | None = None
    stop_sessions: tuple[str, ...] = ()
    sync_scripts: tuple[str, ...] = ()
    remove_scripts: tuple[str, ...] = ()
    deregistered: bool = False


class _PollBody(msgspec.Struct, frozen=True):
    """The answer to a poll, but for the run."""

    stop_sessions: _Names | None = None
    sync_scripts: _Names | None = None
    remove_scripts: _Names | None = None
    deregistered: bool | None = None


class _RawRun(msgspec.Struct, frozen=True):
    """The run of a poll's answer, undecoded: a bad one must not hide its own id."""

    run: msgspec.Raw = msgspec.Raw()


class _RunId(msgspec.Struct, frozen=True):
    run_id: wire.Identifier


class _Claim(msgspec.Struct, frozen=True):
    run_id: wire.Identifier
    runner_id: str


class _RunOfPoll(msgspec.Struct, frozen=True):
    run: _RunId


class CoordinatorApi:
    """The coordinator at one URL. Use as an async context manager, or call `aclose`.

    Each call raises `Unreachable`, `NotRegistered` or `Refused` (and its kinds), nothing else.
    """

    def __init__(self, url: str, auth: httpx.Auth | None = None, *, connections: int = REPORT_CONNECTIONS) -> None:
        """Raises `UsageError` where the URL, or a proxy or certificate variable, is no good."""
        self._transport = Transport(url, auth, connections)
        self.url = self._transport.url

    async def __aenter__(self) -> "CoordinatorApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def health(self) -> None:
        await self._transport.call("GET", "/health")

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Raises `DuplicateRunner` or `AgentNameCollision` where the answer is 409."""
        body = encode_json(registration)
        return (await self._transport.call("POST", "/runner/register", body, line=True)).decoded(wire.Registered)

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        """Hold one poll for the time that the coordinator holds it, and a margin."""
        path = f"/runner/runs?runner_id={path_segment(runner_id)}"
        answer = await self._transport.call("GET", path, limit_s=hold_s + POLL_MARGIN_S, line=True)
        return Polled() if answer.status == NO_CONTENT else _polled(answer)

    async def heartbeat(self, runner_id: str) -> None:
        body = encode_json(wire.RunnerRef(runner_id))
        answer = await self._transport.call("POST", "/runner/heartbeat", body, limit_s=CONTROL_TIMEOUT_S, line=True)
        answer.decoded(dict[str, Any])

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> ApiResponse:
        """Send what the coordinator only has to acknowledge: reports, binds, events, metadata."""
        return await self._acknowledged(method, path, body)

    def forward(
        self, method: str, path: str, headers: list[tuple[str, str]], content: bytes | AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """A call of somebody else, with this runner's credentials; the answer is open and as it came, of any status.

        Raises `Unreachable`, and `NotAuthenticated` where there is no token to be had.
        """
        return self._transport.open(method, path, headers, content)

    async def deregister(self, runner_id: str) -> None:
        await self._transport.call("DELETE", f"/runners/{path_segment(runner_id)}?self=true", line=True)

    async def script_archive(self, name: str) -> bytes:
        """The gzip tar of a script. Raises `Refused` with status 404 where there is none."""
        return (await self._transport.call("GET", f"/scripts/{path_segment(name)}/download")).body

    async def agent(self, name: str, form: type[Form]) -> Form:
        """Return an agent's definition as `form`. Raises `Refused` with status 404 if there is none."""
        return await self._look_up(f"/agents/{path_segment(name)}", form)

    async def agents(self, tags: Collection[str] = ()) -> list[wire.AgentOffer]:
        """All agents, or those that have all of these tags."""
        query = f"?tags={path_segment(','.join(tags))}" if tags else ""
        return await self._get(f"/agents{query}", list[wire.AgentOffer])

    async def create_run(self, request: wire.RunRequest) -> wire.RunCreated:
        return (await self._transport.call("POST", "/runs", encode_json(request))).decoded(wire.RunCreated)

    async def run(self, run_id: str) -> wire.Run:
        return await self._get(f"/runs/{path_segment(run_id)}", wire.Run)

    async def runs(self, status: str | None = None) -> list[wire.Run]:
        query = "" if status is None else f"?status={path_segment(status)}"
        return (await self._get(f"/runs{query}", wire.RunList)).runs

    async def run_state(self, run_id: str) -> wire.RunState:
        return await self._get(f"/runs/{path_segment(run_id)}", wire.RunState)

    async def stop_requests(self) -> list[wire.StopRequest]:
        """The runs that somebody wants stopped, of all runners."""
        return (await self._look_up("/runs?status=stopping", wire.StopRequests)).runs

    async def held(self, runner_id: str, status: RunStatus) -> list[wire.Run | UnreadableRun]:
        """The runs of this status that this runner holds, as the coordinator sees it."""
        listed = await self._look_up(f"/runs?status={status}", wire.RawRuns)
        return [run for raw in listed.runs if (run := _claim_of(runner_id, raw)) is not None]

    async def stop_run(self, run_id: str) -> None:
        await self._acknowledged("POST", f"/runs/{path_segment(run_id)}/stop")

    async def sessions(self) -> list[wire.ListedSession]:
        return (await self._get("/sessions", wire.SessionList)).sessions

    async def session_status(self, session_id: str) -> str:
        return (await self._get(f"/sessions/{path_segment(session_id)}/status", wire.SessionStatus)).status

    async def delete_session(self, session_id: str) -> None:
        """Raises `Refused` with status 409 while it is running or idle."""
        await self._acknowledged("DELETE", f"/sessions/{path_segment(session_id)}")

    async def stop_session(self, session_id: str) -> None:
        await self._acknowledged("POST", f"/sessions/{path_segment(session_id)}/stop")

    async def runners(self) -> list[wire.ListedRunner]:
        return (await self._get("/runners", wire.RunnerList)).runners

    async def session_result(self, session_id: str) -> wire.SessionResult:
        return await self._get(f"/sessions/{path_segment(session_id)}/result", wire.SessionResult)

    async def session_events(self, session_id: str) -> list[wire.SessionEvent]:
        """The events that can be read, without the others: a coordinator may keep unchecked what executors send."""
        listed = await self._get(f"/sessions/{path_segment(session_id)}/events", wire.SessionEvents)
        return [event for raw in listed.events if (event := _event(raw)) is not None]

    async def _get(self, path: str, form: type[Form]) -> Form:
        return (await self._transport.call("GET", path)).decoded(form)

    async def _look_up(self, path: str, form: type[Form]) -> Form:
        """A short call for the runner's control loop, on the connections reserved for it."""
        return (await self._transport.call("GET", path, limit_s=CONTROL_TIMEOUT_S, line=True)).decoded(form)

    async def _acknowledged(self, method: str, path: str, body: bytes | None = None) -> ApiResponse:
        """An acknowledgement is a JSON object; a proxy's page with status 200 is none."""
        answer = await self._transport.call(method, path, body)
        answer.decoded(dict[str, Any])
        return answer


def _polled(answer: ApiResponse) -> Polled:
    raw = answer.decoded(_RawRun).run
    run = _claimed_run(answer, raw) if bytes(raw) else None
    try:
        body = answer.decoded(_PollBody)
    except Unreachable:
        if run is None:
            raise
        body = _PollBody()  # what stands beside a run must not make it lost
    return Polled(
        run=run,
        stop_sessions=body.stop_sessions or (),
        sync_scripts=body.sync_scripts or (),
        remove_scripts=body.remove_scripts or (),
        deregistered=body.deregistered or False,
    )


def _event(raw: msgspec.Raw) -> wire.SessionEvent | None:
    try:
        return decode_json(raw, wire.SessionEvent)
    except wire.DECODE_FAULTS:
        return None


def _claim_of(runner_id: str, raw: msgspec.Raw) -> wire.Run | UnreadableRun | None:
    """None where it is another runner's, or names none that could be reported."""
    try:
        claim = decode_json(raw, _Claim)
    except wire.DECODE_FAULTS:
        return None
    if claim.runner_id != runner_id:
        return None
    try:
        return decode_json(raw, wire.Run)
    except wire.DECODE_FAULTS as defect:
        return UnreadableRun(claim.run_id, f"the run that was claimed cannot be read: {excerpt(str(defect))}")


def _claimed_run(answer: ApiResponse, raw: msgspec.Raw) -> wire.Run | UnreadableRun | None:
    try:
        return decode_json(raw, wire.Run | None)
    except wire.DECODE_FAULTS as defect:
        run_id = answer.decoded(_RunOfPoll).run.run_id
        return UnreadableRun(run_id, f"the run that was handed out cannot be read: {excerpt(str(defect))}")
