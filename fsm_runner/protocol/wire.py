"""The messages of the coordinator's API: protocol.md, section 1. The client and the embedded coordinator share them.

Both ignore fields that are not declared here. Times are ISO 8601 text.
"""

from typing import Annotated, Any, Literal

import msgspec

from fsm_runner.protocol.statuses import CompletedSession, EndedSession, StopSignal

DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
"""The errors of decoding bytes from outside. The last two come from depths and digits beyond the limits of Python."""

JsonObject = dict[str, Any]
"""A JSON object that the runner passes on unread: parameters, schemas, results, an executor's `config`."""

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
"""An id that becomes part of a URL. With an empty or an endless id, every report would fail."""

COUNT_LIMIT = 1_000_000
"""The greatest count in an agent."""

PRIORITY_LIMIT = 10
"""The highest priority of a run. The lowest one is its negative."""

KEY_LIMIT = 200
"""The most characters of an `idempotency_key`."""
KEY_PATTERN = r"^[^\x00-\x1f\x7f]+$"
"""An `idempotency_key` has no control characters."""

RunType = Literal["start_session", "resume_session"]
ExecutionMode = Literal["sync", "async_poll", "async_callback"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that omits fields with their default, so a field that the receiver requires must not have one."""


class Agent(_Message, frozen=True, kw_only=True):
    """An agent, as a file defines it (section 5) and as a run's `resolved_agent_blueprint`."""

    name: str
    description: str | None = None
    type: str | None = None
    """`autonomous` or `procedural`."""
    command: str | None = None
    """The command line of a procedural agent, relative to the executor's folder."""
    script: str | None = None
    """The script of a procedural agent, in place of `command`."""
    system_prompt: str | None = None
    mcp_servers: JsonObject | None = None
    parameters_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    demands: JsonObject | None = None
    """The properties and tags that a runner needs (section 1.3)."""
    tags: list[str] | None = None
    expect: list[str] | None = None
    """What a run must have produced (`protocol/expectations.py`). A deployed coordinator drops it."""
    workflow: str | None = None
    """The workflow that runs of the agent follow, by its name at the runner. A deployed coordinator drops it."""
    max_running: Annotated[int, msgspec.Meta(ge=1, le=COUNT_LIMIT)] | None = None
    """How many runs of the agent may be claimed, running or stopping at a time. A deployed coordinator drops it."""
    retry_lost: Annotated[int, msgspec.Meta(ge=0, le=COUNT_LIMIT)] | None = None
    """How many times a run is queued again when its runner is lost; None: 0. A deployed coordinator drops it."""


class RunnerAgent(Agent, frozen=True, kw_only=True):
    """An agent as a runner registers it. A coordinator requires its command."""

    command: str


class ExecutorInfo(_Message, frozen=True, kw_only=True):
    """A profile without its name, as the runner registers it."""

    type: str
    """`autonomous` or `procedural`."""
    command: str
    """The executor's path, relative to the runner's home. Part of the runner's identity."""
    config: JsonObject = {}
    agents_dir: str | None = None
    lifecycle: str | None = None
    """`one_shot` or `persistent`."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/register`. All fields are sent, also empty ones."""

    hostname: str
    """With `project_dir`, `executor_profile` and `executor.command` the identity of the runner (section 1.1)."""
    project_dir: str
    executor_profile: str
    executor: ExecutorInfo
    tags: list[str] = []
    """The runner's capabilities."""
    require_matching_tags: bool = False
    """Whether a run must share a tag with the runner."""
    agents: list[RunnerAgent] = []
    """The agents that only this runner offers."""


class Registered(_Message, frozen=True, kw_only=True):
    """Response to `POST /runner/register`."""

    runner_id: Identifier
    poll_timeout_seconds: float = 30.0
    """How long the coordinator holds a poll."""
    heartbeat_interval_seconds: float = 60.0
    registration: int | None = None
    """The number of this registration, which fences the runner's calls (section 1.1). A deployed coordinator sends
    none."""


class Run(_Message, frozen=True, kw_only=True):
    """A run in a poll response and in `GET /runs` (section 1.2)."""

    run_id: Identifier
    session_id: Identifier
    type: RunType = "start_session"
    agent_name: str | None = None
    parameters: JsonObject = {}
    project_dir: str | None = None
    """The working directory of the run; None: that of the runner."""
    parent_session_id: str | None = None
    """The session that started this one through the MCP server."""
    execution_mode: str = "sync"
    scope: JsonObject | None = None
    """Values for the placeholders of the agent."""
    resolved_agent_blueprint: JsonObject | None = None
    """The whole agent, including unknown fields: the executor gets all of it."""
    demands: JsonObject | None = None
    status: str = "pending"
    """One of `RunStatus`."""
    runner_id: str | None = None
    error: str | None = None
    created_at: str | None = None
    claimed_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    attempt: int = 1
    """How many times the run was queued: more than once if a runner was lost."""
    priority: int | None = None
    """This field and the next three: as in `RunRequest`."""
    not_before: str | None = None
    queue_ttl_seconds: float | None = None
    idempotency_key: str | None = None


class RunnerRef(msgspec.Struct, frozen=True):
    """Body of a heartbeat and of `started`."""

    runner_id: str


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/runs/{id}/completed`."""

    runner_id: str
    status: Literal["success"] = "success"
    session_status: CompletedSession = "finished"


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/runs/{id}/failed`."""

    runner_id: str
    error: str


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/runs/{id}/stopped`."""

    runner_id: str
    signal: StopSignal


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/sessions/{id}/status`."""

    runner_id: str
    status: EndedSession


class Bind(_Message, frozen=True, kw_only=True):
    """Body of `POST /sessions/{id}/bind`."""

    executor_session_id: str
    """The executor's own name of the session, needed to resume it."""
    hostname: str
    executor_profile: str
    project_dir: str | None = None


class ResultEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event_type", tag="result"):
    """A session's result as an event (section 1.4): text or data, never both."""

    session_id: str
    timestamp: str
    result_text: str | None = None
    result_data: JsonObject | None = None


class SessionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Response to `GET /sessions/{id}/result`: text or a JSON object. A coordinator may accept other types."""

    result_text: Any = None
    result_data: Any = None


class SessionEvent(SessionResult, frozen=True, kw_only=True):
    """The fields of a session's event that concern its result."""

    event_type: str
    timestamp: str = ""


class SessionEvents(msgspec.Struct, frozen=True):
    """Response to `GET /sessions/{id}/events`, with undecoded events, so that an invalid one does not hide others."""

    events: list[msgspec.Raw]


class RunRequest(_Message, frozen=True, kw_only=True):
    """Body of `POST /runs` (section 1.3). A coordinator requires the fields without a default."""

    type: RunType
    parameters: JsonObject
    agent_name: str | None = None
    session_id: str | None = None
    """The session to resume, or the id that a new session should have."""
    project_dir: str | None = None
    parent_session_id: str | None = None
    execution_mode: ExecutionMode = "sync"
    additional_demands: JsonObject | None = None
    scope: JsonObject | None = None
    priority: Annotated[int, msgspec.Meta(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)] | None = None
    """One step counts as one minute of waiting in the queue. A deployed coordinator ignores the last four fields."""
    not_before: str | None = None
    """The time before which no runner claims the run: ISO 8601 with an offset."""
    queue_ttl_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long the run may be queued. Then it fails."""
    idempotency_key: Annotated[str, msgspec.Meta(max_length=KEY_LIMIT, pattern=KEY_PATTERN)] | None = None
    """The same request with the same key starts nothing again."""


class RunCreated(msgspec.Struct, frozen=True, kw_only=True):
    """Response to `POST /runs`."""

    run_id: Identifier
    session_id: Identifier
    status: str = "pending"
    priority: Any = msgspec.UNSET
    """This field and the next three repeat the request. UNSET: the coordinator may not know the field."""
    not_before: Any = msgspec.UNSET
    queue_ttl_seconds: Any = msgspec.UNSET
    idempotency_key: Any = msgspec.UNSET


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A run in `GET /runs?status=stopping`. Other fields are not decoded, because it may be another runner's."""

    run_id: Any
    """An `Identifier`, if the run is this runner's."""
    session_id: str
    runner_id: str | None = None


class StopRequests(msgspec.Struct, frozen=True):
    """Response to `GET /runs?status=stopping`."""

    runs: list[StopRequest]
    approvals: list[msgspec.Raw] = []
    """Decisions about approvals for all runners (`DecisionRequest`), undecoded. A deployed coordinator sends none."""


class ListedRunner(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a runner in `GET /runners` that decide which runs it takes. None: the coordinator does not say."""

    executor_profile: str
    status: str
    """`online` or `stale`."""
    runner_id: str | None = None
    hostname: str | None = None
    project_dir: str | None = None
    executor: JsonObject | None = None
    tags: list[str] | None = None
    require_matching_tags: bool | None = None


class RunnerList(msgspec.Struct, frozen=True):
    """Response to `GET /runners`."""

    runners: list[ListedRunner]


class RunList(msgspec.Struct, frozen=True):
    """Response to `GET /runs`."""

    runs: list[Run]
    next: str | None = None
    """`after` of the next page; None: there is none, or the coordinator does not page."""
    truncated: bool = False
    """Whether a list that is not paged has lost its oldest entries."""


class RawRuns(msgspec.Struct, frozen=True):
    """Response to `GET /runs`, with undecoded runs, so that an invalid one does not hide others."""

    runs: list[msgspec.Raw]
    next: str | None = None
    """As in `RunList`."""


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a run in `GET /runs/{id}`."""

    status: str
    """One of `RunStatus`."""
    error: str | None = None
    runner_id: str | None = None
    """The runner that holds or held it; None: it waits for one."""
    attempt: int = 1
    """As in `Run`."""


class AgentOffer(_Message, frozen=True, kw_only=True):
    """The fields of an agent in `GET /agents` for callers that start it. The others may be confidential."""

    name: str
    description: str | None = None
    type: str | None = None
    parameters_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    tags: list[str] | None = None


class ListedSession(_Message, frozen=True, kw_only=True):
    """A session in `GET /sessions`."""

    session_id: str
    status: str
    agent_name: str | None = None
    parent_session_id: str | None = None
    execution_mode: str | None = None
    project_dir: str | None = None
    hostname: str | None = None
    executor_profile: str | None = None
    created_at: str | None = None
    last_resumed_at: str | None = None
    limit: Any = None
    """The provider's limit for which a run of the session waits (section 2.3), if the coordinator knows this field."""


class SessionParent(msgspec.Struct, frozen=True):
    """The place of a session."""

    parent_session_id: str | None = None
    """The session that has started or resumed this one."""


class SessionPlace(msgspec.Struct, frozen=True):
    """Response to `GET /sessions/{id}`, without the other fields of the session."""

    session: SessionParent


class SessionList(msgspec.Struct, frozen=True):
    """Response to `GET /sessions`."""

    sessions: list[ListedSession]
    next: str | None = None
    """As in `RunList`."""
    truncated: bool = False


class SessionStatus(msgspec.Struct, frozen=True):
    """Response to `GET /sessions/{id}/status`."""

    status: str
    """A session status, or `not_existent` without such a session."""
