"""Puts a runner together from its configuration."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from loguru import logger

from fsm_runner.app.build_executor import ExecutorDependencies, assembled_executor
from fsm_runner.app.durability import kept
from fsm_runner.app.health import Health, answering
from fsm_runner.app.permissions import check_journal
from fsm_runner.config.profiles import LoadedProfile, runner_agent
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.policy import EXECUTOR_CONNECTIONS, POLICIES, Policies
from fsm_runner.coordinator_client.token_service import TokenRequest
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.identity import RunnerIdentity
from fsm_runner.mcp_server.limits import LIMITS as MCP_LIMITS
from fsm_runner.mcp_server.limits import limits_within
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import NO_LIMITS
from fsm_runner.process.limits.open_files import MCP_SHARE, OPEN_FILES, PASSED_ON_SHARE
from fsm_runner.process.user import RunUser, find_user
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_reporter import ReportingContext
from fsm_runner.runtime.actors.machines import load_machine
from fsm_runner.runtime.actors.run import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import RunnerActor
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.blueprint import MCP_URL_PLACEHOLDER, RunnerValues
from fsm_runner.runtime.control.descriptors import check_limit
from fsm_runner.runtime.control.poller import LinkTimes
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.runtime.workspace import check_workspace
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.util.threads import in_thread

WORKSPACE_LOOK_S = 5.0
"""How long the start waits for a file system that does not answer."""
STOP_LIMIT_S = 20.0
"""How long the runs that are left at the end of the grace period may take to be stopped and reported."""


async def _tell_of_workspace(project_dir: Path, user: RunUser | None) -> None:
    """In the log, where runs that name no directory of their own could not work. It may be mended meanwhile."""
    try:
        async with asyncio.timeout(WORKSPACE_LOOK_S):
            await in_thread(check_workspace, project_dir, user)
    except RunRefused as defect:
        logger.warning("runs will fail: {}", defect)
    except OSError as fault:  # the time limit is one
        logger.warning("runs may fail: {} cannot be looked at: {}", project_dir, fault.strerror or "it takes too long")


@asynccontextmanager
async def assembled_runner(
    config: RunnerConfig,
    profile: LoadedProfile,
    coordinator_url: str,
    *,
    observer: Observer | None = None,
    policies: Policies = POLICIES,
    redactor: Redactor | None = None,
) -> AsyncIterator[RunnerActor]:
    """A runner that is ready to `live`. `redactor`: what knows the secrets; None: one that knows the environment's.

    Raises `UsageError` where the profile's executor cannot be had, a port is taken, or a machine is not sound.
    """
    redactor = redactor or Redactor.of_variables(os.environ)
    run_machine, runner_machine, session_machine = load_machine("run"), load_machine("runner"), load_machine("session")
    launch_policy = _launch_policy(config, profile)
    await _tell_of_workspace(config.project_dir, launch_policy.user)
    async with AsyncExitStack() as stack:
        auth = token_auth(config, redactor, policies.token)
        if auth is not None:
            stack.push_async_callback(auth.aclose)
        api = await stack.enter_async_context(CoordinatorApi(coordinator_url, auth))
        executors_api = await stack.enter_async_context(
            CoordinatorApi(coordinator_url, auth, connections=OPEN_FILES.share(EXECUTOR_CONNECTIONS, PASSED_ON_SHARE))
        )
        client = CoordinatorClient(api, policies)
        scripts = ScriptSync(client, config.project_dir, launch_policy.user)
        hostname = config.hostname or socket.gethostname()
        registration = _registration(config, profile, hostname)
        keeping = await stack.enter_async_context(
            kept(config.state_dir, _identity(registration, api.url), redactor.text)
        )
        journal = keeping.journal
        if launch_policy.user is not None and journal.path is not None:
            await in_thread(check_journal, launch_policy.user, journal.path.parent)
        outbox = Outbox(MessageSender(client), journal)
        channels = ReportingContext(
            outbox=outbox,
            clock=EventClock(),
            hostname=hostname,
            executor_profile=profile.name,
            redactor=redactor,
        )
        run_timeout_s = profile.profile.run_timeout if config.run_timeout_s is None else config.run_timeout_s
        sessions = SessionRegistry(
            SessionContext(
                machine=session_machine,
                channels=channels,
                record=journal,
                run_timeout_s=run_timeout_s,
                session_idle_timeout_s=config.session_idle_timeout_s,
            )
        )
        surroundings = ExecutorDependencies(
            api=executors_api,
            scripts=scripts,
            sessions=sessions,
            inherited=os.environ,
            marks=keeping.marks,
            launch_policy=launch_policy,
        )
        executor = await stack.enter_async_context(assembled_executor(config, profile, surroundings))
        context = RunContext(
            machine=run_machine,
            executor=executor,
            channels=channels,
            record=journal,
            look_up=client.look_up_run,
            project_dir=str(config.project_dir),
            runner_values=await _runner_values(stack, config, executors_api),
            run_timeout_s=run_timeout_s,
            retry_interrupted=profile.profile.retry_interrupted,
            user=launch_policy.user,
            observer=observer or Observer(),
        )
        runs = RunRegistry(context, sessions, config.max_runs, repeated_report=policies.repeated_report)
        runner = RunnerActor(
            runner_machine,
            client,
            registration,
            runs,
            scripts,
            {"grace_period_s": config.grace_period_s, "stop_limit_s": STOP_LIMIT_S},
            LinkTimes(poll_timeout_s=config.poll_timeout_s, heartbeat_interval_s=config.heartbeat_interval_s),
            Recovery(journal.take_recovered, outbox, runs, sessions, keeping.sweep),
            journal,
            config.exit_after_outage_s,
        )
        check_limit(config.max_runs)
        if journal.path is not None:
            await stack.enter_async_context(
                answering(journal.path.parent, lambda: Health(runner.state, len(runs), keeping.problem()))
            )
        yield runner


def _launch_policy(config: RunnerConfig, profile: LoadedProfile) -> LaunchPolicy:
    """What executors are held to. Raises `UsageError` where they cannot be started as the configured user."""
    user = None if config.run_as is None else find_user(config.run_as)
    launch_policy = LaunchPolicy((config.run_limits or NO_LIMITS).with_defaults(profile.profile.limits), user)
    launch_policy.warn_of_imprecise_limits()
    return launch_policy


async def _runner_values(stack: AsyncExitStack, config: RunnerConfig, api: CoordinatorApi) -> RunnerValues:
    """Where executors find the orchestrator's tools. Raises `UsageError` where the configured port is taken."""
    if config.external_mcp_url is not None:
        external = {MCP_URL_PLACEHOLDER: config.external_mcp_url}
        return lambda _: external
    # Whoever fixes the port has clients of its own in mind, which have no session.
    limits = limits_within(OPEN_FILES.share(MCP_LIMITS.connections, MCP_SHARE))
    server = McpServer(api, config.mcp_port, open_to_all=config.mcp_port is not None, limits=limits)
    await stack.enter_async_context(server)
    logger.debug("MCP server at {}", server.url)
    return lambda session_id: {MCP_URL_PLACEHOLDER: server.url_of(session_id)}


def token_auth(config: RunnerConfig, redactor: Redactor, policy: RetryPolicy = POLICIES.token) -> TokenAuth | None:
    """The credentials for the configured coordinator; the one that a runner brings along asks for none.

    `redactor` is told the secrets. Raises `UsageError` where a proxy or certificate variable is no good.
    """
    login = config.auth0
    if login is None and any((config.auth0_domain, config.auth0_client_id, config.auth0_client_secret)):
        logger.warning("not all four AUTH0_… variables are set, so the coordinator is called without a token")
    if login is None or config.coordinator_url is None:
        return None
    request = TokenRequest(client_id=login.client_id, client_secret=login.client_secret, audience=login.audience)
    redactor.add(login.client_secret)
    return TokenAuth(f"https://{login.domain}/oauth/token", request, policy=policy, on_token=redactor.replace)


def _identity(registration: wire.Registration, coordinator_url: str) -> RunnerIdentity:
    return RunnerIdentity(
        hostname=registration.hostname,
        project_dir=registration.project_dir,
        executor_profile=registration.executor_profile,
        executor_command=registration.executor.command,
        coordinator_url=coordinator_url,
    )


def _registration(config: RunnerConfig, profile: LoadedProfile, hostname: str) -> wire.Registration:
    return wire.Registration(
        hostname=hostname,
        project_dir=str(config.project_dir),
        executor_profile=profile.name,
        executor=profile.executor_info(),
        tags=list(config.tags),
        require_matching_tags=config.require_matching_tags,
        agents=[runner_agent(agent) for agent in profile.agents],
    )
