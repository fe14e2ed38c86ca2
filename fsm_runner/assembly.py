"""Puts a runner together from its configuration."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from loguru import logger

from fsm_runner.config import RunnerConfig
from fsm_runner.coordinator import wire
from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.auth import TokenAuth, TokenRequest
from fsm_runner.coordinator.client import CoordinatorClient
from fsm_runner.coordinator.outbox import Outbox
from fsm_runner.coordinator.policy import POLICIES, Policies
from fsm_runner.coordinator.timestamps import EventClock
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.executors.port import Executor
from fsm_runner.executors.procedural import ProceduralConfig, ProceduralExecutor
from fsm_runner.lifecycle.channel import ChannelContext
from fsm_runner.lifecycle.link import LinkTimes
from fsm_runner.lifecycle.machines import load_machine
from fsm_runner.lifecycle.run import Observer, RunContext
from fsm_runner.lifecycle.runner import RunnerActor
from fsm_runner.lifecycle.runs import Runs
from fsm_runner.lifecycle.script_sync import ScriptSync
from fsm_runner.process.environment import executor_environment
from fsm_runner.profiles import PROCEDURAL_COMMAND, LoadedProfile

STOP_LIMIT_S = 20.0
"""How long the runs that are left at the end of the grace period may take to be stopped and reported."""


def _nobody(run: wire.Run, state: str, *, final: bool) -> None:
    pass


@asynccontextmanager
async def assembled_runner(
    config: RunnerConfig,
    profile: LoadedProfile,
    coordinator_url: str,
    *,
    observe: Observer = _nobody,
    policies: Policies = POLICIES,
) -> AsyncIterator[RunnerActor]:
    """A runner that is ready to `live`.

    Raises `UsageError` where the profile's executor cannot be had, `SpecError` where a machine is not sound.
    """
    run_machine, runner_machine = load_machine("run"), load_machine("runner")
    async with CoordinatorApi(coordinator_url, token_auth(config)) as api:
        client = CoordinatorClient(api, policies)
        scripts = ScriptSync(client, config.project_dir)
        hostname = socket.gethostname()
        runs = Runs(
            RunContext(
                machine=run_machine,
                executor=_executor(config, profile, scripts),
                channels=ChannelContext(
                    outbox=Outbox(client), clock=EventClock(), hostname=hostname, executor_profile=profile.name
                ),
                project_dir=str(config.project_dir),
                runner_values={},
                run_timeout_s=config.run_timeout_s,
                observe=observe,
            ),
            config.max_runs,
        )
        yield RunnerActor(
            runner_machine,
            client,
            _registration(config, profile, hostname),
            runs,
            scripts,
            {"grace_period_s": config.grace_period_s, "stop_limit_s": STOP_LIMIT_S},
            LinkTimes(poll_timeout_s=config.poll_timeout_s, heartbeat_interval_s=config.heartbeat_interval_s),
        )


def token_auth(config: RunnerConfig) -> TokenAuth | None:
    """The credentials for the configured coordinator; the embedded one asks for none."""
    login = config.auth0
    if login is None and any((config.auth0_domain, config.auth0_client_id, config.auth0_client_secret)):
        logger.warning("not all four AUTH0_… variables are set, so the coordinator is called without a token")
    if login is None or config.coordinator_url is None:
        return None
    request = TokenRequest(client_id=login.client_id, client_secret=login.client_secret, audience=login.audience)
    return TokenAuth(f"https://{login.domain}/oauth/token", request)


def _registration(config: RunnerConfig, profile: LoadedProfile, hostname: str) -> wire.Registration:
    return wire.Registration(
        hostname=hostname,
        project_dir=str(config.project_dir),
        executor_profile=profile.name,
        executor=profile.executor_info(),
        tags=list(config.tags),
        require_matching_tags=config.require_matching_tags,
        agents=list(profile.agents),
    )


def _executor(config: RunnerConfig, profile: LoadedProfile, scripts: ScriptSync) -> Executor:
    if profile.profile.command != PROCEDURAL_COMMAND:
        raise UsageError(
            f"{profile.path}: command: {profile.profile.command!r} is no executor of this runner; "
            f"there is {PROCEDURAL_COMMAND}"
        )
    folder = profile.executor_folder
    if not folder.is_dir():
        raise UsageError(f"{profile.path}: command: there is no folder {folder}")
    executor = ProceduralExecutor(
        folder=folder,
        config=_procedural_config(profile),
        project_dir=config.project_dir,
        environment=executor_environment(os.environ, {}),
        script_source=scripts,
    )
    for agent in profile.agents:
        try:
            executor.check(agent)
        except FsmRunnerError as defect:
            raise UsageError(f"{profile.agent_files[agent.name]}: command: {defect}") from defect
    return executor


def _procedural_config(profile: LoadedProfile) -> ProceduralConfig:
    try:
        return msgspec.convert(profile.profile.config, ProceduralConfig)
    except msgspec.ValidationError as defect:
        raise UsageError(f"{profile.path}: config: {defect}") from defect
