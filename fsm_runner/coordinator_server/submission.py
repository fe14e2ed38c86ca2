"""From a submitted request to a queued run (protocol.md, section 1.3)."""

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

import msgspec

from fsm_runner.coordinator_server.agents import PROMPT_SCHEMA, CatalogAgent
from fsm_runner.coordinator_server.errors import InvalidRequest, NotFound
from fsm_runner.coordinator_server.matching import Demands
from fsm_runner.coordinator_server.scripts import Script
from fsm_runner.coordinator_server.store.interface import new_id
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.protocol.event_clock import utc_now
from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.statuses import LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunCreated, RunRequest

DEFAULT_EXECUTOR_TYPE = "autonomous"
"""The demand of a run without an agent."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""The ids that a client can choose. They become part of URLs."""
_PLACEHOLDER = re.compile(r"\$\{(params|scope)\.([^{}]+)\}")


class Submission(msgspec.Struct, frozen=True):
    """A request, with the agents and scripts at its time."""

    request: RunRequest
    additional_demands: Demands
    agents: Mapping[str, CatalogAgent]
    scripts: Mapping[str, Script]


def schema_of(store: Store, submission: Submission) -> JsonObject | None:
    """Return the JSON Schema of the parameters; None: any are valid. Raises `NotFound`, `InvalidRequest`."""
    if submission.request.type == "resume_session":
        submission, _ = _with_session_defaults(store, submission)
    agent = _agent(submission)
    return PROMPT_SCHEMA if agent is None else agent.schema


def submit(store: Store, submission: Submission) -> RunCreated:
    """Queue the run, whose parameters are valid.

    Raises `InvalidRequest` if its session cannot be resumed or cannot have the chosen id, `NotFound` for its agent or
    session, and `Conflict` if the new session exists.
    """
    request = submission.request
    if request.type == "resume_session":
        return _resume(store, submission)
    session_id = request.session_id or new_id("ses")
    if _SESSION_ID.fullmatch(session_id) is None:
        raise InvalidRequest("session_id: expected at most 200 letters, digits, `-` and `_`")
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
    return _queue(store, submission, session_id, Demands())


def fill_placeholders(definition: Any, params: JsonObject, scope: JsonObject) -> Any:
    """Return the definition with `${params.KEY}` and `${scope.KEY}` replaced in its strings.

    A value that is not a string is inserted as JSON. `${runner.*}` and unknown placeholders stay.
    """
    sources = {"params": params, "scope": scope}

    def replacement(match: re.Match[str]) -> str:
        source, key = sources[match[1]], match[2]
        if key not in source:
            return match[0]
        return source[key] if isinstance(source[key], str) else msgspec.json.encode(source[key]).decode()

    return with_texts(definition, lambda text: _PLACEHOLDER.sub(replacement, text) if "${" in text else text)


def _with_session_defaults(store: Store, submission: Submission) -> tuple[Submission, JsonObject]:
    """Return a resume with the fields that it takes over from its session, and the session."""
    request = submission.request
    if not request.session_id:
        raise InvalidRequest("session_id is required for resume_session")
    session = store.sessions.get(request.session_id)
    request = msgspec.structs.replace(
        request,
        agent_name=request.agent_name or session["agent_name"],
        project_dir=request.project_dir or session["project_dir"],
        parent_session_id=request.parent_session_id or session["parent_session_id"],
    )
    submission = msgspec.structs.replace(submission, request=request)
    agent = _agent(submission)
    if agent is not None and agent.type == "procedural":
        raise InvalidRequest(
            {
                "error": "procedural_agent_no_resume",
                "message": "Procedural agents are stateless and cannot be resumed",
                "agent_name": agent.name,
            }
        )
    return submission, session


def _resume(store: Store, submission: Submission) -> RunCreated:
    submission, session = _with_session_defaults(store, submission)
    request = submission.request
    if request.parent_session_id != session["parent_session_id"]:
        store.sessions.update(session["session_id"], parent_session_id=request.parent_session_id)
    bound_to = Demands(
        hostname=session["hostname"],
        executor_profile=session["executor_profile"],
        runner_id=_runner_of_live_executor(store, session),
    )
    return _queue(store, submission, session["session_id"], bound_to)


def _runner_of_live_executor(store: Store, session: JsonObject) -> str | None:
    """Return the runner of a persistent executor: no other can resume it, even with the same host name and profile."""
    if session["status"] not in LIVE_SESSION_STATUSES:
        return None
    latest = store.runs.latest_of(session["session_id"])
    return None if latest is None else latest.runner_id


def _agent(submission: Submission) -> CatalogAgent | None:
    name = submission.request.agent_name
    if name is None:
        return None
    agent = submission.agents.get(name)
    if agent is None:
        known = ", ".join(sorted(submission.agents)) or "none"
        raise NotFound(f"Agent not found: {name}. Available agents: {known}")
    return agent


def _queue(store: Store, submission: Submission, session_id: str, bound_to: Demands) -> RunCreated:
    request, agent, blueprint = submission.request, _agent(submission), None
    if agent is not None:
        blueprint = fill_placeholders(agent.definition, request.parameters, request.scope or {})
    fixed: JsonObject = {
        "type": request.type,
        "agent_name": request.agent_name,
        "parameters": request.parameters,
        "project_dir": request.project_dir,
        "parent_session_id": request.parent_session_id,
        "execution_mode": request.execution_mode,
        "scope": request.scope,
        "resolved_agent_blueprint": blueprint,
    }
    run = store.runs.add(session_id, fixed, _demands(submission, agent, bound_to))
    return RunCreated(run_id=run.run_id, session_id=session_id, status=run.status)


def _demands(submission: Submission, agent: CatalogAgent | None, bound_to: Demands) -> Demands:
    """Merge the demands. In order of precedence: session, agent type and owner, agent, its script, request."""
    in_order = [bound_to]
    if agent is None:
        in_order.append(Demands(executor_type=DEFAULT_EXECUTOR_TYPE))
    else:
        in_order += [Demands(executor_type=agent.type, runner_id=agent.runner_id), agent.demands]
        if script := submission.scripts.get(agent.agent.script or ""):
            in_order.append(script.demands)
    return reduce(Demands.merged_with, (*in_order, submission.additional_demands))
