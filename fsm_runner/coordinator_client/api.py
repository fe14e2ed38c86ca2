"""The calls of the coordinator's API: one attempt each, with a typed result or a typed error.

`client.py` and `reporting/sender.py` retry them. Contract: protocol.md, section 1.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

import httpx
import msgspec

from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.errors import Refused, Unreachable
from fsm_runner.coordinator_client.fencing import Fencing
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.coordinator_client.transport import NO_HEADERS, Transport
from fsm_runner.protocol import wire
from fsm_runner.protocol.approvals import (
    ApprovalAnswer,
    ApprovalList,
    DecisionRequest,
    DecisionResponse,
    ListedApproval,
)
from fsm_runner.protocol.json_text import decode_json, encode_json
from fsm_runner.protocol.statuses import RunStatus
from fsm_runner.protocol.urls import path_segment
from fsm_runner.util.text import excerpt

Form = TypeVar("Form")
Listed = TypeVar("Listed", wire.RunList, wire.RawRuns, wire.SessionList)

PAGE_LIMIT = 1_000
"""The entries of a page: the most that the embedded coordinator returns at a time."""

_Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=policy.POLL_NAMES_LIMIT)]
_Decisions = Annotated[tuple[msgspec.Raw, ...], msgspec.Meta(max_length=policy.POLL_NAMES_LIMIT)]


class UnreadableRun(msgspec.Struct, frozen=True):
    """A claimed run whose data is invalid (section 1.2). It can only be reported as failed."""

    run_id: str
    defect: str


class Polled(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one poll response; all fields are empty if the coordinator had nothing."""

    run: wire.Run | UnreadableRun | None = None
    stop_sessions: tuple[str, ...] = ()
    sync_scripts: tuple[str, ...] = ()
    remove_scripts: tuple[str, ...] = ()
    approvals: tuple[DecisionRequest, ...] = ()
    """Decisions about approvals of the runner's runs, perhaps not for the first time."""
    deregistered: bool = False


class ClientRequests(msgspec.Struct, frozen=True, kw_only=True):
    """What clients ask of all runners, according to the coordinator."""

    stops: list[wire.StopRequest] = []
    decisions: list[DecisionRequest] = []


class _RawRun(msgspec.Struct, frozen=True):
    """The run of a poll response, undecoded, because its id is needed even if the rest is invalid."""

    run: msgspec.Raw = msgspec.Raw()


class _PollBody(msgspec.Struct, frozen=True):
    """A poll response without its run."""

    stop_sessions: _Names | None = None
    sync_scripts: _Names | None = None
    remove_scripts: _Names | None = None
    approvals: _Decisions | None = None
    deregistered: bool | None = None


class _Claim(msgspec.Struct, frozen=True):
    """The ids of a run whose other fields may be invalid."""

    run_id: wire.Identifier
    runner_id: Any = None


class _ClaimOfPoll(msgspec.Struct, frozen=True):
    run: _Claim


class CoordinatorApi:
    """The coordinator at one URL. Use it as an async context manager, or call `aclose`.

    Each call raises `Unreachable`, `NotRegistered` or `Refused` (and its subclasses), nothing else.
    """

    def __init__(
        self, url: str, auth: httpx.Auth | None = None, *, connections: int = policy.REPORT_CONNECTIONS
    ) -> None:
        """Raises `UsageError` if the URL, or a proxy or certificate variable, is invalid."""
        self._transport = Transport(url, auth, connections)
        self.url = self._transport.url
        self.fencing = Fencing()

    async def __aenter__(self) -> "CoordinatorApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def health(self) -> None:
        await self._transport.call("GET", "/health")

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Raises `DuplicateRunner` or `AgentNameCollision` for a 409."""
        body = encode_json(registration)

        async def send(headers: Mapping[str, str]) -> wire.Registered:
            call = self._transport.call("POST", "/runner/register", body, headers=headers, control=True)
            return (await call).decoded(wire.Registered)

        return await self.fencing.register(send)

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        """Poll once, and wait for the time that the coordinator holds the poll plus a margin."""
        path = f"/runner/runs?runner_id={path_segment(runner_id)}"
        timeout_s = hold_s + policy.POLL_MARGIN_S
        response = await self.fencing.call(
            lambda headers: self._transport.call("GET", path, headers=headers, timeout_s=timeout_s, control=True)
        )
        return Polled() if response.status == httpx.codes.NO_CONTENT else _polled(response)

    async def heartbeat(self, runner_id: str) -> None:
        path, body, timeout_s = "/runner/heartbeat", encode_json(wire.RunnerRef(runner_id)), policy.CONTROL_TIMEOUT_S
        response = await self.fencing.call(
            lambda headers: self._transport.call("POST", path, body, headers=headers, timeout_s=timeout_s, control=True)
        )
        response.decoded(dict[str, Any])

    async def deliver(
        self,
        path: str,
        body: bytes,
        method: str = "POST",
        *,
        run_id: str | None = None,
        attempt: int | None = None,
        registration: int | None = None,
    ) -> ApiResponse:
        """Deliver a message of the runner. Raises `RunReassigned` if its run is not this runner's any more.

        `run_id`: the run on whose behalf it writes to a session. `attempt`: the attempt of the run that the runner has.
        `registration`: that of the runner when it wrote the message, which counts until this process has registered.
        """
        return await self.fencing.call(
            lambda headers: self._acknowledged(method, path, body, headers),
            run_id=run_id,
            attempt=attempt,
            earlier=registration,
        )

    async def _acknowledged(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> ApiResponse:
        """Make a call that the coordinator acknowledges with a JSON object; a proxy's page with status 200 is none."""
        response = await self._transport.call(method, path, body, headers=headers)
        response.decoded(dict[str, Any])
        return response

    def forward(
        self, method: str, path: str, headers: list[tuple[str, str]], content: bytes | AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Forward a call of another client with this runner's credentials, and yield the open response of any status.

        Raises `Unreachable`, or `NotAuthenticated` if the token service rejects the login.
        """
        return self._transport.open(method, path, headers, content)

    async def deregister(self, runner_id: str) -> None:
        path = f"/runners/{path_segment(runner_id)}?self=true"
        await self.fencing.call(lambda headers: self._transport.call("DELETE", path, headers=headers, control=True))

    async def script_archive(self, name: str) -> bytes:
        """Return the gzip tar of a script. Raises `Refused` with status 404 if there is none."""
        return (await self._transport.call("GET", f"/scripts/{path_segment(name)}/download")).body

    async def agent(self, name: str) -> wire.Agent:
        """Raises `Refused` with status 404 if there is none."""
        return await self._get(f"/agents/{path_segment(name)}", wire.Agent)

    async def agent_definition(self, name: str) -> wire.JsonObject:
        """Return the whole agent, as a run's blueprint has it. Raises `Refused` with status 404 if there is none."""
        return await self._look_up(f"/agents/{path_segment(name)}", wire.JsonObject)

    async def agents(self, tags: Collection[str] = ()) -> list[wire.AgentOffer]:
        """Return the agents that have all of these tags."""
        query = f"?tags={path_segment(','.join(tags))}" if tags else ""
        return await self._get(f"/agents{query}", list[wire.AgentOffer])

    async def create_run(self, request: wire.RunRequest) -> wire.RunCreated:
        return (await self._transport.call("POST", "/runs", encode_json(request))).decoded(wire.RunCreated)

    async def run(self, run_id: str) -> wire.Run:
        return await self._get(f"/runs/{path_segment(run_id)}", wire.Run)

    async def runs(self, status: str | None = None) -> list[wire.Run]:
        """Return all runs, the oldest first."""
        query = {} if status is None else {"status": status}
        return oldest_first([run async for page in self.run_pages(query) for run in page])

    async def run_pages(self, query: Mapping[str, str], most: int | None = None) -> AsyncIterator[list[wire.Run]]:
        """Yield pages of at most `most` runs, the newest first. A coordinator that does not page yields all in one.

        It also ignores the fields of `query` other than `status`.
        """
        async for page in self._pages("/runs", query, wire.RunList, most):
            yield page.runs

    async def children(self, session_id: str) -> list[wire.Run]:
        """Return the valid runs that were started or resumed by this session, the oldest first."""
        query = {"parent_session_id": session_id}
        listed = [raw async for page in self._pages("/runs", query, wire.RawRuns) for raw in page.runs]
        runs = (_valid(raw, wire.Run) for raw in listed)
        return oldest_first([run for run in runs if run is not None and run.parent_session_id == session_id])

    async def run_state(self, run_id: str) -> wire.RunState:
        return await self._get(f"/runs/{path_segment(run_id)}", wire.RunState)

    async def client_requests(self) -> ClientRequests:
        """Return the requested stops, and the decisions about approvals that runners have not confirmed."""
        found = await self._look_up("/runs?status=stopping", wire.StopRequests)
        return ClientRequests(stops=found.runs, decisions=_valid_decisions(found.approvals))

    async def held(self, runner_id: str, status: RunStatus) -> list[wire.Run | UnreadableRun]:
        """Return the runs of this status that this runner holds, according to the coordinator."""
        # Another coordinator may ignore the second filter.
        path = f"/runs?status={status}&runner_id={path_segment(runner_id)}"
        listed = await self._look_up(path, wire.RawRuns)
        return [run for raw in listed.runs if (run := _run_of(runner_id, raw)) is not None]

    async def stop_run(self, run_id: str) -> None:
        await self._acknowledged("POST", f"/runs/{path_segment(run_id)}/stop")

    async def approvals(self) -> list[ListedApproval]:
        """Return the approvals for which workflows wait. Raises `Refused` with status 404 if it offers none."""
        return (await self._get("/approvals", ApprovalList)).approvals

    async def decide(self, run_id: str, answer: ApprovalAnswer) -> DecisionResponse:
        """Decide the pending approval of a run. Raises `Refused` with status 404 or 409."""
        response = await self._transport.call("POST", f"/runs/{path_segment(run_id)}/approval", encode_json(answer))
        return response.decoded(DecisionResponse)

    async def sessions(self) -> wire.SessionList:
        """Return the sessions, or the newest ones if there are many."""
        return await self._get("/sessions", wire.SessionList)

    async def session_pages(self) -> AsyncIterator[list[wire.ListedSession]]:
        """Yield all sessions. Those of a page may be deleted before the next page is fetched."""
        async for page in self._pages("/sessions", {}, wire.SessionList):
            yield page.sessions

    async def session_status(self, session_id: str) -> str:
        return (await self._get(f"/sessions/{path_segment(session_id)}/status", wire.SessionStatus)).status

    async def parent_of(self, session_id: str) -> str | None:
        """Return the session's parent; None if it has none, or if there is no such session."""
        try:
            return (
                await self._get(f"/sessions/{path_segment(session_id)}", wire.SessionPlace)
            ).session.parent_session_id
        except Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def delete_session(self, session_id: str) -> None:
        """Raises `Refused` with status 409 while the session is running or idle."""
        await self._acknowledged("DELETE", f"/sessions/{path_segment(session_id)}")

    async def stop_session(self, session_id: str) -> None:
        await self._acknowledged("POST", f"/sessions/{path_segment(session_id)}/stop")

    async def runners(self) -> list[wire.ListedRunner]:
        return (await self._get("/runners", wire.RunnerList)).runners

    async def session_result(self, session_id: str) -> wire.SessionResult:
        return await self._get(f"/sessions/{path_segment(session_id)}/result", wire.SessionResult)

    async def session_events(self, session_id: str) -> list[wire.SessionEvent]:
        """Return the valid events. A coordinator may store the events of executors unchecked."""
        listed = await self._get(f"/sessions/{path_segment(session_id)}/events", wire.SessionEvents)
        return [event for raw in listed.events if (event := _valid(raw, wire.SessionEvent)) is not None]

    async def _pages(
        self, path: str, query: Mapping[str, str], form: type[Listed], most: int | None = None
    ) -> AsyncIterator[Listed]:
        """Yield the pages of a list. A coordinator that does not page ignores `limit` and returns everything."""
        limit, after = min(most or PAGE_LIMIT, PAGE_LIMIT), None
        while True:
            fields = {**query, "limit": str(limit), **({} if after is None else {"after": after})}
            words = "&".join(f"{name}={path_segment(text)}" for name, text in fields.items())
            page = await self._get(f"{path}?{words}", form)
            yield page
            if page.next in {None, after}:
                return
            after = page.next

    async def _get(self, path: str, form: type[Form]) -> Form:
        return (await self._transport.call("GET", path)).decoded(form)

    async def _look_up(self, path: str, form: type[Form]) -> Form:
        """Make a short call on the connections for control calls."""
        return (await self._transport.call("GET", path, timeout_s=policy.CONTROL_TIMEOUT_S, control=True)).decoded(form)


def oldest_first(runs: list[wire.Run]) -> list[wire.Run]:
    """Return listed runs in the order of a list without pages. In pages, the newest run is the first one."""
    is_newest_first = bool(runs) and (runs[0].created_at or "") > (runs[-1].created_at or "")
    return runs[::-1] if is_newest_first else runs


def _polled(response: ApiResponse) -> Polled:
    raw = response.decoded(_RawRun).run
    run = _claimed_run(raw, lambda: response.decoded(_ClaimOfPoll).run.run_id) if bytes(raw) else None
    try:
        body = response.decoded(_PollBody)
    except Unreachable:
        if run is None:
            raise
        body = _PollBody()  # invalid fields beside a valid run must not lose the run
    return Polled(
        run=run,
        stop_sessions=body.stop_sessions or (),
        sync_scripts=body.sync_scripts or (),
        remove_scripts=body.remove_scripts or (),
        approvals=tuple(_valid_decisions(body.approvals or ())),
        deregistered=body.deregistered or False,
    )


def _valid(raw: msgspec.Raw, form: type[Form]) -> Form | None:
    """Return the decoded item; None if it is invalid."""
    try:
        return decode_json(raw, form)
    except wire.DECODE_FAULTS:
        return None


def _valid_decisions(raw: Iterable[msgspec.Raw]) -> list[DecisionRequest]:
    return [decision for each in raw if (decision := _valid(each, DecisionRequest)) is not None]


def _run_of(runner_id: str, raw: msgspec.Raw) -> wire.Run | UnreadableRun | None:
    """Return the run; None if another runner holds it, or if it has no valid id."""
    claim = _valid(raw, _Claim)
    return None if claim is None or claim.runner_id != runner_id else _claimed_run(raw, lambda: claim.run_id)


def _claimed_run(raw: msgspec.Raw, run_id: Callable[[], str]) -> wire.Run | UnreadableRun | None:
    """Return the run. `run_id` returns its id if other fields are invalid."""
    try:
        return decode_json(raw, wire.Run | None)
    except wire.DECODE_FAULTS as error:
        return UnreadableRun(run_id(), f"the claimed run is invalid: {excerpt(str(error))}")
