"""The agents that runs can name: from a folder of files, and from the runners that own them."""

from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path

import msgspec

from fsm_runner.config.paths import visible
from fsm_runner.coordinator_server.errors import Conflict
from fsm_runner.coordinator_server.matching import demands_from
from fsm_runner.errors import UsageError
from fsm_runner.protocol.expectations import expectations_of
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.json_tree import without_nulls
from fsm_runner.protocol.wire import Agent, JsonObject

AGENT_TYPES = ("autonomous", "procedural")

PROMPT_SCHEMA: JsonObject = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}
"""The parameters of an autonomous agent without a schema of its own."""


class AgentOwner(msgspec.Struct, frozen=True):
    """What a runner's agents have from their runner."""

    executor_profile: str
    executor_type: str


class CatalogAgent:
    """An agent's definition and its owners."""

    def __init__(self, definition: JsonObject, owner: AgentOwner | None = None) -> None:
        """Raises msgspec.ValidationError."""
        self.definition = definition
        self.agent = msgspec.convert(without_nulls(definition), Agent)
        self.demands = demands_from(self.agent.demands)
        self.owner = owner
        self.runner_ids: tuple[str, ...] = ()
        """The runners that own it, the first one first."""

    @property
    def name(self) -> str:
        return self.agent.name

    @property
    def type(self) -> str:
        """`autonomous` or `procedural`: as defined, or the owner's type, or derived from the definition."""
        if self.agent.type is not None:
            return self.agent.type
        if self.owner is not None:
            return self.owner.executor_type
        return "procedural" if self.agent.command or self.agent.script else "autonomous"

    def as_json(self) -> JsonObject:
        """Return the agent as `GET /agents` lists it."""
        owners = {"runner_id": self.runner_ids[0], "runner_ids": self.runner_ids} if self.runner_ids else {}
        return {**self.definition, "type": self.type, **owners}

    def owned_by(self, runner_ids: tuple[str, ...]) -> "CatalogAgent":
        agent = copy(self)
        agent.runner_ids = runner_ids
        return agent

    def is_shared_with(self, other: "CatalogAgent") -> bool:
        """Return whether the owners of both can own one agent together."""
        return self.owner is not None and self.content == other.content

    @property
    def content(self) -> bytes:
        """What owners must have in common to own it together. In JSON, `true` and `1` differ."""
        return msgspec.json.encode((self.owner, self.definition), order="sorted")

    @property
    def schema(self) -> JsonObject | None:
        """The JSON Schema of its parameters. None: any parameters are valid."""
        if self.agent.parameters_schema is not None:
            return self.agent.parameters_schema
        return PROMPT_SCHEMA if self.type == "autonomous" else None


class AgentCatalog:
    """All agents by name. A change replaces the mapping and never modifies it.

    A runner owns an agent alone, or together with others that bring the same one.
    """

    def __init__(self, agents: Iterable[CatalogAgent] = ()) -> None:
        self._replace({agent.name: agent for agent in agents})

    def _replace(self, by_name: Mapping[str, CatalogAgent]) -> None:
        self.by_name = by_name
        limits = {name: agent.agent.max_running for name, agent in by_name.items()}
        self.max_running = {name: limit for name, limit in limits.items() if limit is not None}
        """The agents that limit the number of their runs."""

    def replace_owned(self, runner_id: str, agents: Iterable[CatalogAgent]) -> None:
        """Replace a runner's agents. Raises `Conflict`, and changes nothing, if another agent has the name of one."""
        others = {}
        for name, agent in self.by_name.items():
            owners = tuple(owner for owner in agent.runner_ids if owner != runner_id)
            if owners == agent.runner_ids:
                others[name] = agent
            elif owners:
                others[name] = agent.owned_by(owners)
        owned: dict[str, CatalogAgent] = {}
        for agent in agents:
            existing = owned.get(agent.name) or others.get(agent.name)
            if existing is None:
                owned[agent.name] = agent.owned_by((runner_id,))
            elif agent.name not in owned and existing.is_shared_with(agent):
                owned[agent.name] = existing.owned_by((*existing.runner_ids, runner_id))
            else:
                raise _collision(existing)
        self._replace({**others, **owned})

    def tagged(self, tags: frozenset[str]) -> list[CatalogAgent]:
        """Return the agents that have all of these tags, by name."""
        return [agent for _, agent in sorted(self.by_name.items()) if tags.issubset(agent.agent.tags or ())]


def _collision(existing: CatalogAgent) -> Conflict:
    runner_id = existing.runner_ids[0] if existing.runner_ids else None
    owner = (
        "a file of the coordinator"
        if runner_id is None
        else f"runner {runner_id}, with another definition or under another profile"
    )
    return Conflict(
        {
            "error": "agent_name_collision",
            "agent_name": existing.name,
            "existing_runner_id": runner_id,
            "message": f"An agent named '{existing.name}' is already defined by {owner}",
        }
    )


def load_agents(folder: Path, scripts: Iterable[str]) -> list[CatalogAgent]:
    """Load the agents of `{folder}/*.json`. Raises `UsageError` that names file and field."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of agents")
    known_scripts = frozenset(scripts)
    files: dict[str, Path] = {}
    agents = []
    for file in visible(folder, "*.json"):
        agent = _load_agent(file, known_scripts)
        if agent.name in files:
            raise UsageError(f"{file}: name: an agent {agent.name!r} is already defined in {files[agent.name]}")
        files[agent.name] = file
        agents.append(agent)
    return agents


def _load_agent(file: Path, scripts: frozenset[str]) -> CatalogAgent:
    try:
        agent = CatalogAgent(decode_json(file.read_bytes(), JsonObject))
        _check_expectations(agent.agent.expect or ())
        if agent.agent.parameters_schema is not None:
            _check_schema(agent.agent.parameters_schema)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None
    if agent.type not in AGENT_TYPES:
        raise UsageError(f"{file}: type: {agent.type!r} is not one of {', '.join(AGENT_TYPES)}")
    if agent.agent.script is not None and agent.agent.script not in scripts:
        known = ", ".join(sorted(scripts)) or "none"
        raise UsageError(f"{file}: script: there is no script {agent.agent.script!r}; known scripts: {known}")
    return agent


def _check_expectations(listed: Iterable[str]) -> None:
    try:
        expectations_of(listed)
    except ValueError as error:
        raise ValueError(f"expect: {error}") from None


def _check_schema(schema: JsonObject) -> None:
    """Raise ValueError for a broken schema, so that its author gets the error and not each client."""
    from fsm_runner.json_schema.check_program import BrokenSchemaError, validator_of

    try:
        validator_of(schema)
    except BrokenSchemaError as error:
        raise ValueError(f"parameters_schema: {error}") from None
