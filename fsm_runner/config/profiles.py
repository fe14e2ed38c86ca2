"""Profiles, and the agents that a runner owns. Contract: protocol.md, section 5."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fsm_runner.config.budgets import DEFAULT_CHILD_LIMITS, NO_BUDGET, Budget, ChildLimits
from fsm_runner.config.manifest import ExecutorManifest, check_variables, manifest_beside, read_json
from fsm_runner.config.paths import homes, visible
from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.errors import UsageError
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.protocol.expectations import Expectation, expectations_of
from fsm_runner.protocol.statuses import DEFAULT_LIFECYCLE, Lifecycle
from fsm_runner.protocol.wire import Agent, ExecutorInfo, JsonObject, RunnerAgent

PROCEDURAL_COMMAND = "executors/procedural/ao-procedural-exec"
"""The `command` of profiles with the built-in executor (`fsm_runner/executors/procedural.py`)."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `profiles/{name}.json`. Other keys are ignored."""

    type: Literal["autonomous", "procedural"]
    command: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    config: JsonObject = {}
    agents_dir: str | None = None
    lifecycle: Lifecycle = DEFAULT_LIFECYCLE
    env: tuple[str, ...] = ()
    """Names of environment variables of the runner that the executor gets. The coordinator does not get them."""
    retry_interrupted: bool = False
    """Whether a run that the end of the runner's process interrupted runs again."""
    revive: bool = False
    """Whether a resume of a persistent session without a live process starts a new one, in `mode` `resume`."""
    provider_limits: ProviderLimitPolicy = ProviderLimitPolicy()
    """What a run does when a limit of its provider is reached. The setting of the runner takes precedence."""
    run_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long a run may execute, in seconds. The setting of the runner takes precedence."""
    silence_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long a run may send, write and compute nothing, in seconds. The setting of the runner takes precedence."""
    limits: ResourceLimits = NO_LIMITS
    """The resources of a run. The setting of the runner takes precedence."""
    expect: tuple[str, ...] = ()
    """What a run must have produced, unless its agent says so itself (`protocol/expectations.py`)."""
    workflow: str | None = None
    """The workflow that runs follow, unless their agent names another one."""
    budget: Budget = NO_BUDGET
    """What runs may use of their provider. The setting of the runner takes precedence."""
    children: ChildLimits = DEFAULT_CHILD_LIMITS
    """Which sessions executors may start."""


class LoadedProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, its agents, and the home to which its paths are relative."""

    name: str
    path: Path
    home: Path
    profile: Profile
    agents: tuple[Agent, ...]
    agent_files: dict[str, Path]
    """The files of `agents`, by name of the agent."""
    manifest: ExecutorManifest = ExecutorManifest()
    unknown_keys: tuple[str, ...] = ()
    """Keys of the file that are not keys of a profile. They may be misspelled."""

    @property
    def executor_folder(self) -> Path:
        return (self.home / self.profile.command).parent

    @property
    def executor_path(self) -> Path:
        """The executor's file, which may be missing."""
        return _executor_path(self.home, self.profile.command)

    @property
    def named_variables(self) -> tuple[str, ...]:
        """The environment variables that the profile passes to the executor."""
        return (*self.profile.env, *self.manifest.variables_in(self.profile.config))

    @property
    def variables(self) -> tuple[str, ...]:
        """All environment variables of the runner that the executor gets if they are set."""
        return (*self.named_variables, *self.manifest.env)

    def executor_info(self) -> ExecutorInfo:
        """Return the profile as the runner registers it."""
        return msgspec.convert(self.profile, ExecutorInfo, from_attributes=True)


def profile_paths() -> dict[str, Path]:
    """Return the files of all profiles by name. An earlier home takes precedence."""
    paths: dict[str, Path] = {}
    for home in homes():
        for path in visible(home / "profiles", "*.json"):
            paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def load_profile(name: str) -> LoadedProfile:
    """Raises `UsageError` naming the invalid file and field, or the available profiles."""
    paths = profile_paths()
    if name not in paths:
        there_are = ", ".join(paths) or "none"
        raise UsageError(f"Profile not found: {name!r}; there are: {there_are} (in {profile_places()})")
    path = paths[name]
    home = path.parent.parent
    profile = read_json(path, Profile)
    manifest = manifest_beside(_executor_path(home, profile.command))
    for defect in manifest.defects(profile.config):
        raise UsageError(f"{path}: {defect}")
    check_variables(path, "env", profile.env)
    check_variables(path, "config.env", manifest.variables_in(profile.config))
    expected = _expectations(path, profile.expect)
    agents = _agents(path, home, profile)
    for file, agent in agents:
        _check_expectations(file, agent, expected)
    return LoadedProfile(
        name=name,
        path=path,
        home=home,
        profile=profile,
        agents=tuple(agent for _, agent in agents),
        agent_files={agent.name: file for file, agent in agents},
        manifest=manifest,
        unknown_keys=tuple(sorted(read_json(path, dict[str, msgspec.Raw]).keys() - Profile.__struct_fields__)),
    )


def _executor_path(home: Path, command: str) -> Path:
    """Return the executor's path in the profile's home, else in the first home that has it."""
    candidates = [each / command for each in (home, *homes())]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _agents(path: Path, home: Path, profile: Profile) -> list[tuple[Path, Agent]]:
    if profile.agents_dir is None:
        return []
    folder = home / profile.agents_dir
    try:
        if not folder.is_dir():
            raise UsageError(f"{path}: agents_dir: there is no folder {folder}")
    except OSError as error:
        raise UsageError(f"{path}: agents_dir: {folder} cannot be read: {error.strerror}") from error
    agents: dict[str, tuple[Path, Agent]] = {}
    for file in visible(folder, "*.json"):
        agent = read_json(file, Agent)
        if agent.name in agents:
            raise UsageError(f"{file}: name: agent {agent.name!r} is already defined in {agents[agent.name][0]}")
        agents[agent.name] = file, agent
    return list(agents.values())


def _expectations(path: Path, listed: Iterable[str]) -> frozenset[Expectation]:
    try:
        return expectations_of(listed)
    except ValueError as defect:
        raise UsageError(f"{path}: expect: {defect}") from defect


def _check_expectations(file: Path, agent: Agent, of_profile: frozenset[Expectation]) -> None:
    """Raise `UsageError` if an agent's `expect` is invalid, or if its runs cannot be checked for data."""
    expected = of_profile if agent.expect is None else _expectations(file, agent.expect)
    if "data" not in expected:
        return
    if agent.output_schema is None:
        where = "the profile's expect" if agent.expect is None else "expect"
        raise UsageError(f"{file}: output_schema: is missing, but {where} has `data`, which has to match it")
    from fsm_runner.json_schema.check_program import BrokenSchemaError, validator_of

    try:
        validator_of(agent.output_schema)
    except BrokenSchemaError as defect:
        raise UsageError(f"{file}: output_schema: {defect}") from defect


def runner_agent(agent: Agent) -> RunnerAgent:
    """Return the agent for the registration, which requires a command: empty if the agent has none."""
    return RunnerAgent(**{**msgspec.structs.asdict(agent), "command": agent.command or ""})


def profile_places() -> str:
    return ", ".join(str(home / "profiles") for home in homes())
