"""Builds the executor that a profile names."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.app.permissions import check_folder, check_program
from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.executors.environment import executor_environment
from fsm_runner.executors.interface import Executor
from fsm_runner.executors.one_shot import OneShotExecutor
from fsm_runner.executors.procedural import ProceduralConfig, ProceduralExecutor
from fsm_runner.executors.program import Launcher, executor_program
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.limits.open_files import GATEWAY_SHARE, OPEN_FILES
from fsm_runner.runtime.actors.session_registry import PersistentExecutor, SessionRegistry
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.threads import in_thread


class ExecutorDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the runner that an executor uses."""

    api: CoordinatorApi
    scripts: ScriptSync
    sessions: SessionRegistry
    inherited: Mapping[str, str]
    """The runner's environment, from which the executor's is built."""
    tags: Mapping[str, str]
    """Variables that identify the processes of this runner."""
    launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY
    child_bounds: ChildBounds = unbounded


@asynccontextmanager
async def build_executor(
    config: RunnerConfig, profile: LoadedProfile, dependencies: ExecutorDependencies
) -> AsyncIterator[Executor]:
    """Build the executor. Raises `UsageError`, which names the profile, if it cannot be used."""
    if profile.profile.command == PROCEDURAL_COMMAND:
        yield await _procedural(config, profile, dependencies)
        return
    try:
        program = executor_program(
            profile.executor_path,
            dependencies.inherited,
            profile.variables,
            dependencies.launch_policy.user,
            dependencies.tags,
        )
    except UsageError as defect:
        raise UsageError(f"{profile.path}: command: {defect}") from defect
    except OSError as fault:  # the name is too long, or a folder may not be entered
        raise UsageError(f"{profile.path}: command: cannot be found: {fault.strerror}") from fault
    for name in sorted(set(profile.named_variables) - dependencies.inherited.keys()):
        logger.warning("{}: env: {} is not set, so the executor does not get it", profile.path, name)
    if (hint := profile.manifest.credentials_defect(dependencies.inherited)) is not None:
        logger.warning("{}: {}", profile.path, hint)
    if (user := dependencies.launch_policy.user) is not None:
        await in_thread(check_program, user, profile.executor_path, program)
    # Imported here: a procedural runner has no gateway, and loading the web server takes time.
    from fsm_runner.gateway.endpoint import LIMITS
    from fsm_runner.gateway.server import Gateway

    limits = msgspec.structs.replace(LIMITS, connections=OPEN_FILES.share(LIMITS.connections, GATEWAY_SHARE))
    async with Gateway(dependencies.api, limits, child_bounds=dependencies.child_bounds) as gateway:
        launcher = Launcher(program, gateway, profile.profile.config, dependencies.launch_policy)
        if profile.profile.lifecycle == "one_shot":
            yield OneShotExecutor(launcher)
        else:
            yield PersistentExecutor(dependencies.sessions, launcher)


async def _procedural(
    config: RunnerConfig, profile: LoadedProfile, dependencies: ExecutorDependencies
) -> ProceduralExecutor:
    folder = profile.executor_folder
    if not folder.is_dir():
        raise UsageError(f"{profile.path}: command: there is no folder {folder}")
    executor = ProceduralExecutor(
        folder=folder,
        config=_procedural_config(profile),
        project_dir=config.project_dir,
        environment=executor_environment(
            dependencies.inherited,
            named=profile.profile.env,
            user=dependencies.launch_policy.user,
            tags=dependencies.tags,
        ),
        script_source=dependencies.scripts,
        launch_policy=dependencies.launch_policy,
    )
    commands = _commands(executor, profile)
    if (user := dependencies.launch_policy.user) is not None:
        await in_thread(check_folder, user, folder, commands)
    return executor


def _commands(executor: ProceduralExecutor, profile: LoadedProfile) -> list[Path]:
    """Return the files that the profile's agents start. Raises `UsageError`, which names the agent's file."""
    commands = []
    for agent in profile.agents:
        try:
            command = executor.check(agent)
        except FsmRunnerError as defect:
            raise UsageError(f"{profile.agent_files[agent.name]}: command: {defect}") from defect
        if command is not None:
            commands.append(command)
    return commands


def _procedural_config(profile: LoadedProfile) -> ProceduralConfig:
    try:
        return msgspec.convert(profile.profile.config, ProceduralConfig)
    except msgspec.ValidationError as defect:
        raise UsageError(f"{profile.path}: config: {defect}") from defect
