"""From a request for work to a queued run (protocol.md, section 1.3)."""

from collections.abc import Mapping

import msgspec

from fsm_runner.coordinator_server.errors import Refusal
from fsm_runner.coordinator_server.store.agents import CatalogAgent
from fsm_runner.coordinator_server.store.ids import new_session_id, utc_now
from fsm_runner.coordinator_server.store.matching import Demands
from fsm_runner.coordinator_server.store.placeholders import fill
from fsm_runner.coordinator_server.store.scripts import Script
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.coordinator_server.validation.validation import PROMPT_SCHEMA
from fsm_runner.protocol.statuses import LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunCreated, RunRequest

"""A session of these has an executor at this moment."""

DEFAULT_EXECUTOR_TYPE = "autonomous"
"""What a run demands that names no agent."""


class Submission(msgspec.Struct, frozen=True):
    """A request and all that is needed to judge it, as it was when the request came."""

    request: RunRequest
    additional_demands: Demands
    agents: Mapping[str, CatalogAgent]
    scripts: Mapping[str, Script]


def schema_of(store: Store, submission: Submission) -> JsonObject | None:
    """What the parameters have to fit; None: any do. Raises the Refusals of `submit` for an agent and a session."""
    if submission.request.type == "resume_session":
        submission, _ = _completed(store, submission)
    agent = _agent(submission, submission.request.agent_name)
    return PROMPT_SCHEMA if agent is None else agent.schema


def submit(store: Store, submission: Submission) -> RunCreated:
    """Queue the run, whose parameters fit. Raises a Refusal: 400 no resume, 404 unknown agent or session, 409 session
    exists."""
    request = submission.request
    if request.type == "resume_session":
        return _resume(store, submission)
    agent = _agent(submission, request.agent_name)
    session_id = request.session_id or new_session_id()
    store.sessions.create(
        {
            "session_id": session_id,
            "status": "pending",
            "project_dir": request.project_dir,
            "agent_name": request.agent_name,
            "parent_session_id": request.parent_session_id,
            "execution_mode": request.execution_mode,
            "created_at": utc_now(),
        }
    )
    return _queue(store, submission, session_id, agent, Demands())


def _completed(store: Store, submission: Submission) -> tuple[Submission, JsonObject]:
    """A resume with what it leaves to its session, and the session."""
    request = submission.request
    if not request.session_id:
        raise Refusal(400, "session_id is required for resume_session")
    session = store.sessions.get(request.session_id)
    request = msgspec.structs.replace(
        request,
        agent_name=request.agent_name or session["agent_name"],
        project_dir=request.project_dir or session["project_dir"],
        parent_session_id=request.parent_session_id or session["parent_session_id"],
    )
    submission = msgspec.structs.replace(submission, request=request)
    agent = _agent(submission, request.agent_name)
    if agent is not None and agent.type == "procedural":
        raise Refusal(
            400,
            {
                "error": "procedural_agent_no_resume",
                "message": "Procedural agents are stateless and cannot be resumed",
                "agent_name": agent.name,
            },
        )
    return submission, session


def _resume(store: Store, submission: Submission) -> RunCreated:
    submission, session = _completed(store, submission)
    request = submission.request
    agent = _agent(submission, request.agent_name)
    if request.parent_session_id != session["parent_session_id"]:
        store.sessions.update(session["session_id"], parent_session_id=request.parent_session_id)
    bound_to = Demands(
        hostname=session["hostname"],
        executor_profile=session["executor_profile"],
        runner_id=_runner_of_live_executor(store, session),
    )
    return _queue(store, submission, session["session_id"], agent, bound_to)


def _runner_of_live_executor(store: Store, session: JsonObject) -> str | None:
    """A persistent executor can be resumed where it lives alone, though others have its host name and profile."""
    if session["status"] not in LIVE_SESSION_STATUSES:
        return None
    last = store.runs.last_of(session["session_id"])
    return None if last is None else last.runner_id


def _agent(submission: Submission, name: str | None) -> CatalogAgent | None:
    if name is None:
        return None
    agent = submission.agents.get(name)
    if agent is None:
        known = ", ".join(sorted(submission.agents)) or "none"
        raise Refusal(404, f"Agent not found: {name}. Available agents: {known}")
    return agent


def _queue(
    store: Store, submission: Submission, session_id: str, agent: CatalogAgent | None, bound_to: Demands
) -> RunCreated:
    request = submission.request
    fixed: JsonObject = {
        "type": request.type,
        "agent_name": request.agent_name,
        "parameters": request.parameters,
        "project_dir": request.project_dir,
        "parent_session_id": request.parent_session_id,
        "execution_mode": request.execution_mode,
        "scope": request.scope,
        "resolved_agent_blueprint": _blueprint(agent, request),
    }
    run = store.runs.add(session_id, fixed, _demands(submission, agent, bound_to))
    return RunCreated(run_id=run.run_id, session_id=session_id, status=run.status)


def _blueprint(agent: CatalogAgent | None, request: RunRequest) -> JsonObject | None:
    if agent is None:
        return None
    filled: JsonObject = fill(agent.definition, request.parameters, request.scope or {})
    return filled


def _demands(submission: Submission, agent: CatalogAgent | None, bound_to: Demands) -> Demands:
    """What the session is bound to goes before the agent's, its script's and the request's own demands."""
    if agent is None:
        return bound_to.over(Demands(executor_type=DEFAULT_EXECUTOR_TYPE)).over(submission.additional_demands)
    kind = Demands(executor_type=agent.type, runner_id=agent.runner_id)
    script = submission.scripts.get(agent.agent.script or "")
    script_demands = Demands() if script is None else script.demands
    return bound_to.over(kind).over(agent.demands).over(script_demands).over(submission.additional_demands)
