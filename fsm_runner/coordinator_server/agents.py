"""The agents that runs can name: from a folder of files, and from the runners that own them."""

from collections.abc import Iterable, Mapping
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


class CatalogAgent:
    """An agent's definition and its owner."""

    def __init__(self, definition: JsonObject, *, runner_id: str | None = None, owner_type: str | None = None) -> None:
        """Raises msgspec.ValidationError."""
        self.definition = definition
        self.agent = msgspec.convert(without_nulls(definition), Agent)
        self.demands = demands_from(self.agent.demands)
        self.runner_id = runner_id
        self._owner_type = owner_type

    @property
    def name(self) -> str:
        return self.agent.name

    @property
    def type(self) -> str:
        """`autonomous` or `procedural`: as defined, or the owner's type, or derived from the definition."""
        if self.agent.type is not None:
            return self.agent.type
        if self._owner_type is not None:
            return self._owner_type
        return "procedural" if self.agent.command or self.agent.script else "autonomous"

    def as_json(self) -> JsonObject:
        """Return the agent as `GET /agents` lists it."""
        owner = {} if self.runner_id is None else {"runner_id": self.runner_id}
        return {**self.definition, "type": self.type, **owner}

    @property
    def schema(self) -> JsonObject | None:
        """The JSON Schema of its parameters. None: any parameters are valid."""
        if self.agent.parameters_schema is not None:
            return self.agent.parameters_schema
        return PROMPT_SCHEMA if self.type == "autonomous" else None


class AgentCatalog:
    """All agents by name. A change replaces the mapping and never modifies it: another thread may read it."""

    def __init__(self, agents: Iterable[CatalogAgent] = ()) -> None:
        self.by_name: Mapping[str, CatalogAgent] = {agent.name: agent for agent in agents}

    def replace_owned(self, runner_id: str, agents: Iterable[CatalogAgent]) -> None:
        """Replace a runner's agents. Raises `Conflict`, and changes nothing, if a name has another owner."""
        others = {name: agent for name, agent in self.by_name.items() if agent.runner_id != runner_id}
        owned: dict[str, CatalogAgent] = {}
        for agent in agents:
            if existing := others.get(agent.name) or owned.get(agent.name):
                owner = "a file of the coordinator" if existing.runner_id is None else f"runner {existing.runner_id}"
                raise Conflict(
                    {
                        "error": "agent_name_collision",
                        "agent_name": agent.name,
                        "existing_runner_id": existing.runner_id,
                        "message": f"An agent named '{agent.name}' is already defined by {owner}",
                    }
                )
            owned[agent.name] = agent
        if owned or len(others) != len(self.by_name):
            self.by_name = {**others, **owned}

    def owned_by(self, runner_id: str) -> frozenset[str]:
        """Return the names of a runner's agents."""
        return frozenset(name for name, agent in self.by_name.items() if agent.runner_id == runner_id)

    def tagged(self, tags: frozenset[str]) -> list[CatalogAgent]:
        """Return the agents that have all of these tags, by name."""
        return [agent for _, agent in sorted(self.by_name.items()) if tags.issubset(agent.agent.tags or ())]


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
