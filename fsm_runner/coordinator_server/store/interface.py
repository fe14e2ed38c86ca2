"""The data of a coordinator: sessions, runs and events. It knows no HTTP, and raises the errors of `errors.py`.

Each method of `Store` is one transaction, but `tick` and `runs` without a page may be several. After each, the store
publishes the changes for the event streams. Any number of coordinators could share a store: what only one process needs
is not part of it.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.protocol.approvals import Decided, DecisionRequest, ListedApproval
from fsm_runner.protocol.statuses import CompletedSession
from fsm_runner.protocol.wire import JsonObject

LIST_LIMIT = 1_000
"""The most entries of a page, and of a list that is not paged."""
RANDOM_ID_BYTES = 8


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(RANDOM_ID_BYTES)}"


class ChangeEvent(msgspec.Struct, frozen=True):
    """A change for the event streams."""

    type: str
    data: JsonObject
    """Always with `session_id`."""


Publish = Callable[[Sequence[ChangeEvent]], None]


class DemandClass(msgspec.Struct, frozen=True, kw_only=True):
    """What pending runs have in common that the same runners may claim."""

    demands: Demands
    limited_agent: str | None = None
    """The agent of the runs, if it has `max_running`."""


class Reporter(msgspec.Struct, frozen=True, kw_only=True):
    """Who reports about a run."""

    runner_id: str
    registration: int | None = None
    """`X-Runner-Registration`; None: the runner is not fenced."""
    attempt: int | None = None
    """`X-Run-Attempt`, the attempt whose claim the runner has got; None: without this header."""


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes to a session: `X-Run-Id`, `X-Run-Attempt` and `X-Runner-Registration`; None: without these headers."""

    run_id: str | None = None
    attempt: int | None = None
    registration: int | None = None


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The additional fields of `POST /runs`, which the response repeats."""

    priority: int | None = None
    not_before: str | None = None
    """ISO 8601 in UTC."""
    queue_ttl_seconds: float | None = None
    idempotency_key: str | None = None


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    project_dir: str | None
    agent_name: str | None
    parent_session_id: str | None
    execution_mode: str


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to queue, whose parameters are valid."""

    session: NewSession | str
    """The session to create, or the id of the one to resume."""
    parent_session_id: str | None
    """The parent that a resumed session gets."""
    request: JsonObject
    """The fields of the run that never change."""
    demand_class: DemandClass
    options: QueueOptions
    retry_lost: int = 0
    digest: bytes = b""
    """The hash of the request as it was sent, which a repeated request with the same `idempotency_key` must have."""


class CreatedRun(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    session_id: str
    status: str
    class_id: int | None
    """The class to which a runner should be woken; None if there is no new run, or if it waits for `not_before`."""


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a run that the coordinator itself uses."""

    run_id: str
    session_id: str
    status: str
    runner_id: str | None
    limited_agent: str | None = None


class ClaimedRun(msgspec.Struct, frozen=True, kw_only=True):
    run: JsonObject
    """As a poll returns it."""
    run_id: str
    class_id: int
    has_more: bool = True
    """Whether another run of the class can be claimed now. True also if the store does not know."""


class StopResult(msgspec.Struct, frozen=True, kw_only=True):
    """The response to a stop request, and the runner that has to stop the session, if any."""

    response: JsonObject
    session_id: str
    runner_id: str | None = None


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of a runner that has left."""

    requeued_sessions: list[str]
    """The sessions whose runs are queued again."""
    limited_agents: frozenset[str]
    """The agents with `max_running` of which fewer runs are held now."""
    has_unpinned: bool = False
    """Whether pending runs that demanded the runner do not demand it any more."""


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """None: any."""

    status: str | None = None
    runner_id: str | None = None
    agent_name: str | None = None
    tag: str | None = None
    parent_session_id: str | None = None
    """Runs that were started or resumed by this session."""
    created_after: str | None = None
    """ISO 8601 in UTC, in the format of `utc_now`."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list, the newest entry first."""

    limit: int
    """At most `LIST_LIMIT`."""
    after: int | None = None
    """The number of the last entry of the page before; None: the first page."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    items: list[JsonObject]
    next: int | None = None
    """`Page.after` of the next page; None: this is the last one, or the list is not paged."""
    is_truncated: bool = False
    """Whether a list that is not paged has lost its oldest entries."""


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `GET /queue`."""

    executor_profile: str | None
    agent_name: str | None
    """The agent, if its runners own it."""
    tags: list[str]
    pending: int
    claimed: int
    running: int
    """Includes runs that are being stopped."""
    wanted: int
    """All of them, without the pending runs that `max_running` keeps from being claimed now."""


class EventHead(msgspec.Struct, frozen=True):
    """The fields of every event (protocol.md, section 1.4)."""

    event_type: str
    session_id: str
    timestamp: str


class Store(Protocol):
    """Every method may raise `Unavailable` if the database cannot be used. All times are those of the database."""

    async def open(self) -> None:
        """Open or create the database, and migrate an older one. Raises `UsageError`, which names the database."""

    async def aclose(self) -> None:
        """Close it after the operations that were called before."""

    async def check(self) -> Unavailable | None:
        """Return why the database cannot be used, if so. Tests a write if the last write failed."""

    # Runners.

    async def new_registration(self, runner_id: str) -> int:
        """Make the runner's earlier registrations obsolete, and return the number of the new one.

        It is the larger of the last number + 1 and the time in milliseconds. So it is greater than each earlier number
        also if the database is empty or was restored, and has at most 18 digits.
        """

    async def close_runner(self, runner_id: str, reason: str, *, may_requeue: bool = True) -> Closed:
        """End the open runs of a runner that has left, and finish its idle sessions.

        Pending runs that demand this runner, to resume a session there, do not demand it any more.
        A run is queued again if its claim was fenced, it has a retry left (`retry_lost`), it is not being stopped, and
        its demands do not name the runner. Otherwise it fails with the reason. `may_requeue` False: all fail, since the
        runner may still execute them.
        """

    async def holders(self) -> list[str]:
        """Return the runners that have open runs, or had the last run of an idle session."""

    async def stopping_sessions(self, runner_id: str) -> list[str]:
        """Return the sessions whose runs this runner was asked to stop and has not reported as stopped."""

    # The queue.

    async def create_run(self, run: NewRun) -> CreatedRun:
        """Queue a run, with its session if that is new. With a known `idempotency_key`: return the first run.

        Raises `Conflict` if the session exists or the key belongs to another request, and `NotFound` if the session
        to resume does not exist.
        """

    async def repeated_run(self, idempotency_key: str, digest: bytes) -> CreatedRun | None:
        """Return the run of an earlier request with this key; None if there is none. Raises `Conflict` as `create_run`.

        Its agent may be unknown by now, so this is asked before the agent is looked up.
        """

    async def claim(
        self, runner_id: str, registration: int | None, class_ids: Sequence[int], max_running: Mapping[str, int]
    ) -> ClaimedRun | None:
        """Assign the first pending run of these classes to a runner: by rank, and then by age. None: there is none.

        `registration` fences the claim. `max_running` by agent: no run of an agent that is at its limit is assigned.
        """

    async def untold_claim(self, runner_id: str) -> ClaimedRun | None:
        """Return the oldest fenced claim of the runner for which `note_told` was not called; None if there is none."""

    async def note_told(self, run_id: str) -> None:
        """Note that the response with the claim was written."""

    async def release(self, run_id: str) -> None:
        """Undo a claim whose response no client receives. The run keeps its place in the queue."""

    async def tick(self) -> Mapping[int, DemandClass]:
        """Let runs whose `not_before` has come be claimed, and fail those whose time in the queue is over.

        Return all classes with runs that can be claimed now, by id.
        """

    async def queue(self, max_running: Mapping[str, int]) -> list[QueueEntry]:
        """Count the runs by demanded profile, owned agent and tags. `max_running`: by agent."""

    async def prune(self, keep_s: float, most: int) -> int:
        """Delete at most about this many rows of sessions that ended long ago. Return the number of deleted rows.

        A session is deleted with its runs and events if it has ended, and all its runs ended more than `keep_s`
        seconds ago. A large session is deleted over several calls: its events first.
        """

    # Reports. They raise `NotFound`, `RunReassigned` and `RegistrationSuperseded`.

    async def report_started(self, run_id: str, reporter: Reporter) -> None: ...

    async def report_completed(self, run_id: str, reporter: Reporter, session_status: CompletedSession) -> RunRow: ...

    async def report_failed(self, run_id: str, reporter: Reporter, error: str) -> RunRow: ...

    async def report_stopped(self, run_id: str, reporter: Reporter, signal: str) -> RunRow: ...

    async def report_session_end(self, session_id: str, reporter: Reporter, status: str) -> None:
        """Record that a persistent executor ended between turns. Raises `InvalidRequest` and `NotFound`."""

    # Stops.

    async def stop_run(self, run_id: str) -> StopResult:
        """Raises `NotFound`, or `InvalidRequest` if the run is stopping or has ended."""

    async def stop_session(self, session_id: str) -> StopResult:
        """Stop the session in any status. Raises `NotFound`."""

    # Runs and sessions.

    async def run(self, run_id: str) -> JsonObject:
        """Return a run (protocol.md, section 1.2). Raises `NotFound`."""

    async def run_row(self, run_id: str) -> RunRow:
        """Raises `NotFound`."""

    async def runs(self, chosen: RunFilter, page: Page | None) -> Listed:
        """Return runs: a page, newest first; or without a page the newest `LIST_LIMIT`, oldest first.

        The runs that are claimed, running or stopping are complete without a page.
        """

    async def holding_run(self, session_id: str) -> RunRow | None:
        """Return the session's newest run that a runner has, or else the newest that a runner had; None: none did."""

    async def session(self, session_id: str) -> JsonObject:
        """Raises `NotFound`."""

    async def sessions(self, page: Page | None, session_id: str | None = None) -> Listed:
        """Return sessions, newest first: a page, or else the newest `LIST_LIMIT`. `session_id`: only this one."""

    async def session_status(self, session_id: str) -> str:
        """Return `not_existent` if there is no such session."""

    async def session_result(self, session_id: str) -> JsonObject:
        """Return the fields of the result event with the greatest timestamp. Raises `NotFound`, `InvalidRequest`."""

    async def session_events(self, session_id: str) -> list[msgspec.Raw]:
        """Return the events, ordered by timestamp as text. Raises `NotFound`."""

    async def add_event(self, session_id: str, event: EventHead, body: bytes, author: Author) -> None:
        """Add an event; `body` is the whole event as received.

        Raises `NotFound`, `InvalidRequest` if the event names another session, and with an author `RunReassigned` and
        `RegistrationSuperseded`.
        """

    async def update_session(self, session_id: str, author: Author, **fields: str | bytes | None) -> JsonObject:
        """Set these fields, if any, and return the session. `limit` and `workflow` are JSON; None deletes them.

        Raises as `add_event` does.
        """

    async def delete_session(self, session_id: str) -> JsonObject:
        """Delete the session and return the numbers of its runs and events. Raises `NotFound`, `Conflict`."""

    # Approvals of workflows.

    async def pending_approvals(self) -> list[ListedApproval]:
        """Return the pending approvals without a decision, the oldest run first."""

    async def add_decision(self, decision: DecisionRequest) -> DecisionRequest:
        """Store the decision, unless there is one, and return the one that is stored, with its visit.

        Raises `NotFound`, `AlreadyDecided`, or `Conflict` if the run waits for no approval.
        """

    async def note_workflow(self, session_id: str) -> None:
        """Take over the decision that the session's workflow shows, and forget one that it makes obsolete."""

    async def undelivered_decisions(self) -> list[DecisionRequest]:
        """Return the decisions that runners have not confirmed."""

    async def decision_outcome(self, request: DecisionRequest) -> Decided | None:
        """Return the confirmed decision about the same visit; None if there is none."""
