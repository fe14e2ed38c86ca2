"""The agents that runs can name: from a folder of files, and from the runners that own them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fsm_runner.config.paths import visible
from fsm_runner.coordinator_server.http.schemas import without_nulls
from fsm_runner.coordinator_server.store.matching import demands_from
from fsm_runner.coordinator_server.validation.validation import PROMPT_SCHEMA
from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import Agent, JsonObject

AGENT_TYPES = ("autonomous", "procedural")


class CatalogAgent:
    """An agent as it was given, with where it came from."""

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
        """`autonomous` or `procedural`: as it says, else as its owner is, else by what it has."""
        if self.agent.type is not None:
            return self.agent.type
        if self._owner_type is not None:
            return self._owner_type
        return "procedural" if self.agent.command or self.agent.script else "autonomous"

    @property
    def shown(self) -> JsonObject:
        """The agent as `GET /agents` shows it."""
        owner = {} if self.runner_id is None else {"runner_id": self.runner_id}
        return {**self.definition, "type": self.type, **owner}

    @property
    def schema(self) -> JsonObject | None:
        """What its parameters have to fit; None: any do."""
        if self.agent.parameters_schema is not None:
            return self.agent.parameters_schema
        return PROMPT_SCHEMA if self.type == "autonomous" else None


class AgentNameTakenError(Exception):
    """Another owner has an agent of this name."""

    def __init__(self, agent: CatalogAgent) -> None:
        super().__init__(agent.name)
        self.agent = agent


class AgentCatalog:
    """All agents by name. The mapping is replaced on change, never altered: another thread may read it."""

    def __init__(self, agents: Iterable[CatalogAgent] = ()) -> None:
        self.by_name: Mapping[str, CatalogAgent] = {agent.name: agent for agent in agents}

    def replace_owned(self, runner_id: str, agents: Iterable[CatalogAgent]) -> None:
        """A runner's agents take the place of those it had. Raises AgentNameTakenError and changes nothing."""
        others = {name: agent for name, agent in self.by_name.items() if agent.runner_id != runner_id}
        owned: dict[str, CatalogAgent] = {}
        for agent in agents:
            if taken := others.get(agent.name) or owned.get(agent.name):
                raise AgentNameTakenError(taken)
            owned[agent.name] = agent
        if owned or len(others) != len(self.by_name):
            self.by_name = {**others, **owned}

    def owned_by(self, runner_id: str) -> frozenset[str]:
        """The names of a runner's agents."""
        return frozenset(name for name, agent in self.by_name.items() if agent.runner_id == runner_id)

    def tagged(self, tags: frozenset[str]) -> list[CatalogAgent]:
        """The agents that have all of these tags, by name."""
        return [agent for _, agent in sorted(self.by_name.items()) if tags.issubset(agent.agent.tags or ())]


def load_agents(folder: Path, scripts: Iterable[str]) -> list[CatalogAgent]:
    """The agents in `*.json` of the folder. Raises UsageError that names file and field."""
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
        if agent.agent.parameters_schema is not None:
            _refuse_broken_schema(agent.agent.parameters_schema)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None
    if agent.type not in AGENT_TYPES:
        raise UsageError(f"{file}: type: {agent.type!r} is none of {', '.join(AGENT_TYPES)}")
    if agent.agent.script is not None and agent.agent.script not in scripts:
        known = ", ".join(sorted(scripts)) or "none"
        raise UsageError(f"{file}: script: there is no script {agent.agent.script!r}; there is: {known}")
    return agent


def _refuse_broken_schema(schema: JsonObject) -> None:
    """Now, so that it is the author's message and not each submitter's. Raises ValueError."""
    from fsm_runner.coordinator_server.validation.check_program import BrokenSchemaError, validator_of

    try:
        validator_of(schema)
    except BrokenSchemaError as error:
        raise ValueError(f"parameters_schema: {error}") from None
