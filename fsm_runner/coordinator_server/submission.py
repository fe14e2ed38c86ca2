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
from fsm_runner.coordinator_server.store.interface import (
    DemandClass,
    NewRun,
    NewSession,
    QueueOptions,
    RunRow,
    new_id,
)
from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.statuses import LIVE_SESSION_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunRequest

DEFAULT_EXECUTOR_TYPE = "autonomous"
"""The demand of a run without an agent."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""The ids that a client can choose. They become part of URLs."""
_PLACEHOLDER = re.compile(r"\$\{(params|scope)\.([^{}]+)\}")


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and what it refers to, at its time."""

    request: RunRequest
    additional_demands: Demands
    digest: bytes
    agents: Mapping[str, CatalogAgent]
    scripts: Mapping[str, Script]
    session: JsonObject | None = None
    """The session to resume."""
    holding_run: RunRow | None = None
    """The run of this session that a runner has, or else the latest that a runner had."""

    def resuming(self, session: JsonObject, holding_run: RunRow | None) -> "Submission":
        """Return a resume with the fields that it takes over from its session. Raises `InvalidRequest`, `NotFound`."""
        request = msgspec.structs.replace(
            self.request,
            agent_name=self.request.agent_name or session["agent_name"],
            project_dir=self.request.project_dir or session["project_dir"],
            parent_session_id=self.request.parent_session_id or session["parent_session_id"],
        )
        submission = msgspec.structs.replace(self, request=request, session=session, holding_run=holding_run)
        agent = submission.agent
        if agent is not None and agent.type == "procedural":
            raise InvalidRequest(
                {
                    "error": "procedural_agent_no_resume",
                    "message": "Procedural agents are stateless and cannot be resumed",
                    "agent_name": agent.name,
                }
            )
        return submission

    @property
    def agent(self) -> CatalogAgent | None:
        """Raises `NotFound`."""
        name = self.request.agent_name
        if name is None:
            return None
        agent = self.agents.get(name)
        if agent is None:
            known = ", ".join(sorted(self.agents)) or "none"
            raise NotFound(f"Agent not found: {name}. Available agents: {known}")
        return agent

    @property
    def schema(self) -> JsonObject | None:
        """The JSON Schema of the parameters; None: any are valid. Raises `NotFound`."""
        agent = self.agent
        return PROMPT_SCHEMA if agent is None else agent.schema

    def new_run(self) -> NewRun:
        """Return the run to queue, whose parameters are valid. Raises `InvalidRequest` and `NotFound`."""
        request, agent = self.request, self.agent
        return NewRun(
            session=self._new_session() if self.session is None else self.session["session_id"],
            parent_session_id=request.parent_session_id,
            request=self._unchanging_fields(),
            demand_class=DemandClass(
                demands=self._demands(),
                limited_agent=agent.name if agent is not None and agent.agent.max_running is not None else None,
            ),
            options=options_of(request),
            retry_lost=0 if agent is None else agent.agent.retry_lost or 0,
            digest=self.digest,
        )

    def _new_session(self) -> NewSession:
        request = self.request
        session_id = request.session_id or new_id("ses")
        if _SESSION_ID.fullmatch(session_id) is None:
            raise InvalidRequest("session_id: expected at most 200 letters, digits, `-` and `_`")
        return NewSession(
            session_id=session_id,
            project_dir=request.project_dir,
            agent_name=request.agent_name,
            parent_session_id=request.parent_session_id,
            execution_mode=request.execution_mode,
        )

    def _unchanging_fields(self) -> JsonObject:
        request, agent, blueprint = self.request, self.agent, None
        if agent is not None:
            blueprint = fill_placeholders(agent.definition, request.parameters, request.scope or {})
        return {
            "type": request.type,
            "agent_name": request.agent_name,
            "parameters": request.parameters,
            "project_dir": request.project_dir,
            "parent_session_id": request.parent_session_id,
            "execution_mode": request.execution_mode,
            "scope": request.scope,
            "resolved_agent_blueprint": blueprint,
        }

    def _demands(self) -> Demands:
        """Merge the demands. In order of precedence: session, agent type and owner, agent, its script, request."""
        agent, bound_to = self.agent, self._bound_to()
        in_order = [bound_to]
        if agent is None:
            in_order.append(Demands(executor_type=DEFAULT_EXECUTOR_TYPE))
        else:
            # The runner of a live executor resumes it, whichever runner owns the agent.
            is_owned = bool(agent.runner_ids) and bound_to.runner_id is None
            in_order += [
                Demands(executor_type=agent.type, owned_agent=agent.name if is_owned else None),
                agent.demands,
            ]
            if script := self.scripts.get(agent.agent.script or ""):
                in_order.append(script.demands)
        return reduce(Demands.merged_with, (*in_order, self.additional_demands))

    def _bound_to(self) -> Demands:
        """Return the demands of the session."""
        session, holding = self.session, self.holding_run
        if session is None:
            return Demands()
        demands = Demands(hostname=session["hostname"], executor_profile=session["executor_profile"])
        if session["status"] in LIVE_SESSION_STATUSES and holding is not None:
            # No other runner has its executor, even with the same host name and profile.
            return msgspec.structs.replace(demands, runner_id=holding.runner_id)
        return demands


def session_to_resume(request: RunRequest) -> str | None:
    """Return the id of the session; None: the request starts one. Raises `InvalidRequest`."""
    if request.type != "resume_session":
        return None
    if not request.session_id:
        raise InvalidRequest("session_id is required for resume_session")
    return request.session_id


def options_of(request: RunRequest) -> QueueOptions:
    """Return the request's options for the queue. Its `not_before` is in UTC."""
    return QueueOptions(**{name: getattr(request, name) for name in QueueOptions.__struct_fields__})


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
