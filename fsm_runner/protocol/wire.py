"""The coordinator's API in types: protocol.md, section 1.

The client and the embedded coordinator share them. Fields that are not named here are ignored on both sides.
"""

from typing import Annotated, Any, Literal

import msgspec

from fsm_runner.protocol.statuses import CompletedSession, EndedSession, StopSignal

DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
"""All that decoding bytes from outside can raise; the last two for depths and digits beyond Python's limits."""

JsonObject = dict[str, Any]
"""A JSON object whose content is its owner's business: parameters, schemas, results, an executor's `config`."""

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
"""An id that the runner has to put into a URL. With an empty one, or one that no server reads to its end, nothing could
be told or asked, and it would be tried for ever."""

RunType = Literal["start_session", "resume_session"]
ExecutionMode = Literal["sync", "async_poll", "async_callback"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A field that equals its default is not sent, so one that the receiver requires must not have a default."""


class Agent(_Message, frozen=True, kw_only=True):
    """An agent: as a file defines it (section 5) and as a run's `resolved_agent_blueprint`."""

    name: str
    description: str | None = None
    type: str | None = None
    command: str | None = None
    script: str | None = None
    system_prompt: str | None = None
    mcp_servers: JsonObject | None = None
    parameters_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    demands: JsonObject | None = None
    tags: list[str] | None = None


class RunnerAgent(Agent, frozen=True, kw_only=True):
    """An agent as a runner registers it: a coordinator requires its command."""

    command: str


class ExecutorInfo(_Message, frozen=True, kw_only=True):
    """A profile without its name, as the runner registers it."""

    type: str
    command: str
    config: JsonObject = {}
    agents_dir: str | None = None
    lifecycle: str | None = None


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/register`. All fields are sent, also empty ones."""

    hostname: str
    project_dir: str
    executor_profile: str
    executor: ExecutorInfo
    tags: list[str] = []
    require_matching_tags: bool = False
    agents: list[RunnerAgent] = []


class Registered(_Message, frozen=True, kw_only=True):
    """Answer to `POST /runner/register`."""

    runner_id: Identifier
    poll_timeout_seconds: float = 30.0
    heartbeat_interval_seconds: float = 60.0


class Run(_Message, frozen=True, kw_only=True):
    """A run as the coordinator hands it out and lists it (section 1.2). Times are ISO 8601 text."""

    run_id: Identifier
    session_id: Identifier
    type: RunType = "start_session"
    agent_name: str | None = None
    parameters: JsonObject = {}
    project_dir: str | None = None
    parent_session_id: str | None = None
    execution_mode: str = "sync"
    scope: JsonObject | None = None
    resolved_agent_blueprint: JsonObject | None = None
    """The agent as the coordinator has it: an executor gets all of it, known here or not."""
    demands: JsonObject | None = None
    status: str = "pending"
    runner_id: str | None = None
    error: str | None = None
    created_at: str | None = None
    claimed_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None


class RunnerRef(msgspec.Struct, frozen=True):
    """Body of a heartbeat and of `started`."""

    runner_id: str


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    runner_id: str
    status: Literal["success"] = "success"
    session_status: CompletedSession = "finished"


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    runner_id: str
    error: str


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    runner_id: str
    signal: StopSignal


class SessionEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /runner/sessions/{id}/status`."""

    runner_id: str
    status: EndedSession


class Bind(_Message, frozen=True, kw_only=True):
    """Body of `POST /sessions/{id}/bind`."""

    executor_session_id: str
    hostname: str
    executor_profile: str
    project_dir: str | None = None


class ResultEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event_type", tag="result"):
    """A session's result, as an event (section 1.4): text or data, never both."""

    session_id: str
    timestamp: str
    result_text: str | None = None
    result_data: JsonObject | None = None


class SessionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `GET /sessions/{id}/result`."""

    result_text: Any = None
    """Text, unless the coordinator takes whatever an executor sends."""
    result_data: Any = None
    """An object, with the same reservation."""


class SessionEvent(SessionResult, frozen=True, kw_only=True):
    """As much of a session's event as tells its result."""

    event_type: str
    timestamp: str = ""


class SessionEvents(msgspec.Struct, frozen=True):
    """Answer to `GET /sessions/{id}/events`, its events undecoded: one that cannot be read must not hide the others."""

    events: list[msgspec.Raw]


class RunRequest(_Message, frozen=True, kw_only=True):
    """Body of `POST /runs` (section 1.3). A coordinator requires the fields without a default."""

    type: RunType
    parameters: JsonObject
    agent_name: str | None = None
    session_id: str | None = None
    project_dir: str | None = None
    parent_session_id: str | None = None
    execution_mode: ExecutionMode = "sync"
    additional_demands: JsonObject | None = None
    scope: JsonObject | None = None


class RunCreated(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `POST /runs`."""

    run_id: str
    session_id: str
    status: str = "pending"


class StopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a run of status `stopping` as tells whom it concerns: the rest may be another runner's business."""

    run_id: Any
    """An `Identifier`, in a run of this runner."""
    session_id: str
    runner_id: str | None = None


class StopRequests(msgspec.Struct, frozen=True):
    """Answer to `GET /runs?status=stopping`."""

    runs: list[StopRequest]


class ListedRunner(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a runner of `GET /runners` that decide which runs it takes. None: the coordinator does not say."""

    executor_profile: str
    status: str
    runner_id: str | None = None
    hostname: str | None = None
    project_dir: str | None = None
    executor: JsonObject | None = None
    tags: list[str] | None = None
    require_matching_tags: bool | None = None


class RunnerList(msgspec.Struct, frozen=True):
    """Answer to `GET /runners`."""

    runners: list[ListedRunner]


class RunList(msgspec.Struct, frozen=True):
    runs: list[Run]


class RawRuns(msgspec.Struct, frozen=True):
    """Answer to `GET /runs`, its runs undecoded: one that cannot be read must not hide the others."""

    runs: list[msgspec.Raw]


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a run as tells how it is getting on."""

    status: str
    error: str | None = None


class AgentOffer(_Message, frozen=True, kw_only=True):
    """As much of an agent of `GET /agents` as is for those who start it; the rest may hold what is none of theirs."""

    name: str
    description: str | None = None
    type: str | None = None
    parameters_schema: JsonObject | None = None
    output_schema: JsonObject | None = None
    tags: list[str] | None = None


class ListedSession(_Message, frozen=True, kw_only=True):
    """A session of `GET /sessions`."""

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


class SessionList(msgspec.Struct, frozen=True):
    """Answer to `GET /sessions`."""

    sessions: list[ListedSession]


class SessionStatus(msgspec.Struct, frozen=True):
    """Answer to `GET /sessions/{id}/status`; `not_existent` where there is no such session."""

    status: str
