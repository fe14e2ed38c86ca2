"""Profiles and the agents that a runner brings along. Contract: protocol.md, section 5."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from fsm_runner.config.manifest import ExecutorManifest, manifest_beside, refuse_runners_own
from fsm_runner.config.paths import homes, visible
from fsm_runner.errors import UsageError
from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.statuses import DEFAULT_LIFECYCLE, Lifecycle
from fsm_runner.protocol.wire import DECODE_FAULTS, Agent, ExecutorInfo, JsonObject, RunnerAgent

Form = TypeVar("Form")

PROCEDURAL_COMMAND = "executors/procedural/ao-procedural-exec"
"""The `command` of profiles whose executor is built into the runner (`fsm_runner/executors/procedural.py`)."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """`profiles/{name}.json`. Keys that are not named here are ignored."""

    type: Literal["autonomous", "procedural"]
    command: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    config: JsonObject = {}
    agents_dir: str | None = None
    lifecycle: Lifecycle = DEFAULT_LIFECYCLE
    env: tuple[str, ...] = ()
    """Names of the runner's environment variables that the executor gets too. Not told to the coordinator."""
    retry_interrupted: bool = False
    """Whether runs are carried out again that the end of the runner's process has interrupted."""
    run_timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How long a run may execute, in seconds, where the runner is not told otherwise."""
    limits: ResourceLimits = NO_LIMITS
    """What a run may use of the machine, where the runner is not told otherwise."""


class LoadedProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile with its agents, and the home that its relative paths start from."""

    name: str
    path: Path
    home: Path
    profile: Profile
    agents: tuple[Agent, ...]
    agent_files: dict[str, Path]
    """By the agents' names."""
    manifest: ExecutorManifest = ExecutorManifest()
    """What the executor says of itself."""
    unknown_keys: tuple[str, ...] = ()
    """What the file says besides; a key that is misspelled is among them."""

    @property
    def executor_folder(self) -> Path:
        """The folder of the executor that `command` names."""
        return (self.home / self.profile.command).parent

    @property
    def executor_path(self) -> Path:
        """The executor's file. It need not exist."""
        return _executor_path(self.home, self.profile.command)

    @property
    def named_variables(self) -> tuple[str, ...]:
        """The runner's variables that the profile passes on to the executor."""
        return (*self.profile.env, *self.manifest.variables_in(self.profile.config))

    @property
    def variables(self) -> tuple[str, ...]:
        """All of the runner's variables that the executor gets, where they are set."""
        return (*self.named_variables, *self.manifest.env)

    def executor_info(self) -> ExecutorInfo:
        """The profile as it is told to the coordinator."""
        profile = self.profile
        return ExecutorInfo(
            type=profile.type,
            command=profile.command,
            config=profile.config,
            agents_dir=profile.agents_dir,
            lifecycle=profile.lifecycle,
        )


def profile_paths() -> dict[str, Path]:
    """All profiles that there are, by name; an earlier home's hide those of a later one."""
    paths: dict[str, Path] = {}
    for home in homes():
        for path in visible(home / "profiles", "*.json"):
            paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def load_profile(name: str) -> LoadedProfile:
    """Raises `UsageError` naming the file and the field that is wrong, or the profiles that there are."""
    paths = profile_paths()
    if name not in paths:
        raise UsageError(
            f"Profile not found: {name!r}; there are: {', '.join(paths) or 'none'} (in {profile_places()})"
        )
    path = paths[name]
    home = path.parent.parent
    profile = read_json(path, Profile)
    manifest = manifest_beside(_executor_path(home, profile.command))
    for defect in manifest.defects(profile.config):
        raise UsageError(f"{path}: {defect}")
    refuse_runners_own(path, "env", profile.env)
    refuse_runners_own(path, "config.env", manifest.variables_in(profile.config))
    agents = _agents(path, home, profile)
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
    """In the profile's home, else in a later one."""
    places = [each / command for each in (home, *homes())]
    return next((place for place in places if place.is_file()), places[0])


def read_json(path: Path, form: type[Form]) -> Form:
    """Raises `UsageError` naming the file and the field."""
    try:
        return decode_json(path.read_bytes(), form)
    except DECODE_FAULTS as defect:
        raise UsageError(f"{path}: {defect}") from defect
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from fault


def _agents(path: Path, home: Path, profile: Profile) -> list[tuple[Path, Agent]]:
    if profile.agents_dir is None:
        return []
    folder = home / profile.agents_dir
    try:
        if not folder.is_dir():
            raise UsageError(f"{path}: agents_dir: there is no folder {folder}")
    except OSError as fault:
        raise UsageError(f"{path}: agents_dir: {folder} cannot be read: {fault.strerror}") from fault
    agents = [(file, read_json(file, Agent)) for file in visible(folder, "*.json")]
    files: dict[str, Path] = {}
    for file, agent in agents:
        if agent.name in files:
            raise UsageError(f"{file}: name: agent {agent.name!r} is already defined in {files[agent.name]}")
        files[agent.name] = file
    return agents


def runner_agent(agent: Agent) -> RunnerAgent:
    """The agent as it is registered: with an empty command where its executor starts no program for it."""
    return RunnerAgent(**{**msgspec.structs.asdict(agent), "command": agent.command or ""})


def profile_places() -> str:
    """The folders that profiles are looked for in."""
    return ", ".join(str(home / "profiles") for home in homes())
