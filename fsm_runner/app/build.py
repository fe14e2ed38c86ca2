"""Builds a runner from its configuration. The exit stack of `assembled_runner` owns everything that is opened."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.app import control_requests
from fsm_runner.app.build_executor import ExecutorDependencies, build_executor
from fsm_runner.app.build_workflows import build_workflows
from fsm_runner.app.control_socket import serve_control
from fsm_runner.app.durability import open_durable_state
from fsm_runner.app.health import Health, serve_health
from fsm_runner.app.permissions import check_journal
from fsm_runner.config.budgets import NO_BUDGET
from fsm_runner.config.profiles import LoadedProfile, runner_agent
from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.policy import EXECUTOR_CONNECTIONS, POLICIES, Policies
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.executors.children import ChildBounds
from fsm_runner.executors.environment import executor_environment
from fsm_runner.executors.interface import RunRefused
from fsm_runner.journal.identity import RunnerIdentity
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.mcp_server.limits import LIMITS as MCP_LIMITS
from fsm_runner.mcp_server.limits import limits_within
from fsm_runner.mcp_server.server import McpServer
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import NO_LIMITS
from fsm_runner.process.limits.open_files import MCP_SHARE, OPEN_FILES, PASSED_ON_SHARE
from fsm_runner.process.user import RunUser, find_user
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.expectations import expectations_of
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.actors.actor import Inbox
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES, load_machine
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import PollTimes, RunnerActor
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.blueprint import MCP_URL_PLACEHOLDER, RunnerValues
from fsm_runner.runtime.control.budgets import Budgets
from fsm_runner.runtime.control.children import Children
from fsm_runner.runtime.control.descriptors import check_limit
from fsm_runner.runtime.control.exit_rule import ExitRule
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.control.session_trees import SessionTrees
from fsm_runner.runtime.control.silence import SilenceLimit
from fsm_runner.runtime.expectations import ExpectationContext
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.recovery import Recovery, check_states
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.runtime.workflow.reruns import Reruns
from fsm_runner.runtime.workspace import check_workspace
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.retry import RetryPolicy
from fsm_runner.util.structs import with_defaults
from fsm_runner.util.threads import in_thread
from fsm_runner.workflow.file import LoadedWorkflow

WORKSPACE_CHECK_LIMIT_S = 5.0
"""The time for which the start waits for the file system of the project directory."""
STOP_LIMIT_S = 20.0
"""The time within which runs are stopped and reported after the grace period."""


async def _warn_of_workspace(project_dir: Path, user: RunUser | None) -> None:
    """Log why runs in the default directory would fail. The start continues: the operator may fix it while it runs."""
    try:
        async with asyncio.timeout(WORKSPACE_CHECK_LIMIT_S):
            await in_thread(check_workspace, project_dir, user)
    except RunRefused as defect:
        logger.warning("runs will fail: {}", defect)
    except OSError as fault:  # the time limit is one
        logger.warning("runs may fail: {} cannot be checked: {}", project_dir, fault.strerror or "it takes too long")


@asynccontextmanager
async def assembled_runner(
    config: RunnerConfig,
    profile: LoadedProfile,
    coordinator_url: str,
    *,
    observer: Observer | None = None,
    policies: Policies = POLICIES,
    redactor: Redactor | None = None,
    workflow: LoadedWorkflow | None = None,
) -> AsyncIterator[RunnerActor]:
    """Build a runner that is ready to `live`, and close all that it uses afterwards.

    `workflow`: the workflow of all runs, whatever their agents and the profile name. The default `redactor` knows the
    secrets of the environment. Raises `UsageError` if the profile's executor or a workflow is not usable, a port is
    taken, a machine is not sound, or one lacks a state of the journal's open runs and sessions.
    """
    redactor = redactor or Redactor.of_variables(os.environ)
    machines = {name: load_machine(name) for name in ACTOR_INTERFACES}
    launch_policy = _launch_policy(config, profile)
    await _warn_of_workspace(config.project_dir, launch_policy.user)
    async with AsyncExitStack() as stack:
        auth = token_auth(config, redactor, policies.token)
        if auth is not None:
            stack.push_async_callback(auth.aclose)
        api = await stack.enter_async_context(CoordinatorApi(coordinator_url, auth))
        executors_api = await stack.enter_async_context(
            CoordinatorApi(coordinator_url, auth, connections=OPEN_FILES.share(EXECUTOR_CONNECTIONS, PASSED_ON_SHARE))
        )
        inbox = Inbox()
        outage = OutageTimer(config.exit_after_outage_s, partial(inbox.post, "outage_too_long"))
        client = CoordinatorClient(
            api,
            policies,
            on_registration_lost=partial(inbox.post, "report_not_accepted"),
            on_unanswered=outage.unanswered,
            on_answered=outage.answered,
            on_superseded=partial(inbox.post, "registration_superseded"),
        )
        registration = _registration(config, profile)
        identity = RunnerIdentity(
            hostname=registration.hostname,
            project_dir=registration.project_dir,
            executor_profile=registration.executor_profile,
            executor_command=registration.executor.command,
            coordinator_url=api.url,
        )
        durable = await stack.enter_async_context(open_durable_state(config.state_dir, identity, redactor.text, inbox))
        journal = durable.journal
        check_states(journal.recovered, machines, journal.path)
        if launch_policy.user is not None and journal.path is not None:
            await in_thread(check_journal, launch_policy.user, journal.path.parent)
        scripts = ScriptSync(client, config.project_dir, launch_policy.user)
        stack.push_async_callback(scripts.aclose)
        outbox = Outbox(MessageSender(client), journal, lambda: api.fencing.registration)
        stack.push_async_callback(outbox.aclose)
        reporting = ReportingContext(
            outbox=outbox,
            clock=EventClock(),
            hostname=registration.hostname,
            executor_profile=profile.name,
            redactor=redactor,
        )
        run_timeout_s = profile.profile.run_timeout if config.run_timeout_s is None else config.run_timeout_s
        sessions = SessionRegistry(
            SessionContext(
                machine=machines["session"],
                reporting=reporting,
                record=journal,
                run_timeout_s=run_timeout_s,
                session_idle_timeout_s=config.session_idle_timeout_s,
                revive=profile.profile.revive,
            )
        )
        trees = SessionTrees(journal, executors_api.parent_of)
        child_bounds = Children(profile.profile.children, trees)
        dependencies = ExecutorDependencies(
            api=executors_api,
            scripts=scripts,
            sessions=sessions,
            inherited=os.environ,
            tags=durable.tags,
            launch_policy=launch_policy,
            child_bounds=child_bounds,
        )
        executor = await stack.enter_async_context(build_executor(config, profile, dependencies))
        expectations = _expectations(stack, profile, launch_policy, durable.tags)
        observer = observer or Observer()
        approvals = Approvals(redactor.text, on_open=observer.asked)
        workflows = build_workflows(
            profile,
            reporting,
            journal,
            executors_api,
            child_bounds,
            launch_policy,
            durable.tags,
            expectations,
            approvals,
            workflow,
        )
        context = RunContext(
            machine=machines["run"],
            executor=executor,
            reporting=reporting,
            record=journal,
            look_up=client.look_up_run,
            project_dir=str(config.project_dir),
            runner_values=await _runner_values(stack, config, executors_api, child_bounds),
            run_timeout_s=run_timeout_s,
            retry_interrupted=profile.profile.retry_interrupted,
            budgets=Budgets((config.budget or NO_BUDGET).with_defaults(profile.profile.budget), trees),
            user=launch_policy.user,
            observer=observer,
            silence_limit=_silence_limit(config, profile),
            expectations=expectations,
            workflows=workflows,
        )
        runs = RunRegistry(
            context,
            sessions,
            config.max_runs,
            repeated_report=policies.repeated_report,
            limit_policy=_limit_policy(config, profile),
            on_limit_reached=partial(inbox.post, "limit_reached"),
            on_limit_passed=partial(inbox.post, "limit_passed"),
            on_descriptors_short=partial(inbox.post, "descriptors_short"),
            on_descriptors_freed=partial(inbox.post, "descriptors_freed"),
        )
        # Closed in this order: runs before their sessions, and both while the gateway still serves their executors.
        stack.push_async_callback(sessions.aclose)
        stack.push_async_callback(runs.aclose)
        exit_rule = ExitRule(after_runs=config.exit_after_runs, when_idle_s=config.exit_when_idle_s)
        runner = RunnerActor(
            machines["runner"],
            machines["poller"],
            client,
            registration,
            runs,
            scripts,
            {"grace_period_s": config.grace_period_s, "stop_limit_s": STOP_LIMIT_S},
            PollTimes(poll_timeout_s=config.poll_timeout_s, heartbeat_interval_s=config.heartbeat_interval_s),
            Recovery(journal.take_recovered, outbox, runs, sessions, durable.sweep),
            journal,
            outage,
            inbox,
            approvals.receive,
            exit_rule,
        )
        check_limit(config.max_runs)
        if journal.path is not None:

            def health() -> Health:
                return Health(
                    runner.state,
                    len(runs),
                    durable.problem(),
                    runner.has_tag("unhealthy"),
                    waiting=len(runs.limits.waiting),
                    limited_until=runs.limits.due_text,
                )

            await stack.enter_async_context(serve_health(journal.path.parent, health))

            def claims_no_more() -> bool:
                return runner.is_ending or bool(exit_rule.reason(runs.begun_count, idle_s=0))

            reruns = Reruns(api, journal, registration, runs, claims_no_more)
            requests = {**control_requests.handlers(approvals), **control_requests.rerun_handlers(reruns)}
            await stack.enter_async_context(serve_control(journal.path.parent, requests))
        yield runner


def _launch_policy(config: RunnerConfig, profile: LoadedProfile) -> LaunchPolicy:
    """Return the limits and the user of executors. Raises `UsageError` if they cannot be started as that user."""
    user = None if config.run_as is None else find_user(config.run_as)
    launch_policy = LaunchPolicy(with_defaults(config.run_limits or NO_LIMITS, profile.profile.limits), user)
    launch_policy.warn_of_imprecise_limits()
    return launch_policy


def _limit_policy(config: RunnerConfig, profile: LoadedProfile) -> ProviderLimitPolicy:
    policy = profile.profile.provider_limits
    if config.limit_wait_s is None:
        return policy
    return msgspec.structs.replace(policy, max_wait_s=config.limit_wait_s)


def _silence_limit(config: RunnerConfig, profile: LoadedProfile) -> SilenceLimit | None:
    limit_s = profile.profile.silence_timeout if config.silence_timeout_s is None else config.silence_timeout_s
    return None if limit_s is None else SilenceLimit(limit_s)


def _expectations(
    stack: AsyncExitStack, profile: LoadedProfile, launch_policy: LaunchPolicy, tags: Mapping[str, str]
) -> ExpectationContext:
    checker = SchemaChecker()
    stack.push_async_callback(checker.aclose)
    named = [name for name in profile.variables if name.startswith("GIT_") or name == "XDG_CONFIG_HOME"]
    environment = executor_environment(os.environ, named=named, user=launch_policy.user, tags=tags)
    return ExpectationContext(
        of_profile=expectations_of(profile.profile.expect),
        agents={agent.name: agent for agent in profile.agents},
        git=Git(environment=environment, launch_policy=launch_policy),
        checker=checker,
    )


async def _runner_values(
    stack: AsyncExitStack, config: RunnerConfig, api: CoordinatorApi, child_bounds: ChildBounds
) -> RunnerValues:
    """Start the MCP server and return its address for blueprints. Raises `UsageError` if the port is taken."""
    if config.external_mcp_url is not None:
        external = {MCP_URL_PLACEHOLDER: config.external_mcp_url}
        return lambda _: external
    limits = limits_within(OPEN_FILES.share(MCP_LIMITS.connections, MCP_SHARE))
    # An operator who fixes the port has clients of their own, which belong to no session.
    server = McpServer(
        api, config.mcp_port, open_to_all=config.mcp_port is not None, limits=limits, child_bounds=child_bounds
    )
    await stack.enter_async_context(server)
    logger.debug("MCP server at {}", server.url)
    return lambda session_id: {MCP_URL_PLACEHOLDER: server.url_of(session_id)}


def token_auth(config: RunnerConfig, redactor: Redactor, policy: RetryPolicy = POLICIES.token) -> TokenAuth | None:
    """Return the credentials for the configured coordinator; None if it, or the runner's own one, requires none.

    Secrets are added to `redactor`. Raises `UsageError` if a proxy or certificate variable is invalid.
    """
    request = config.token_request
    if request is None and any((config.auth0_domain, config.auth0_client_id, config.auth0_client_secret)):
        logger.warning("not all four AUTH0_… variables are set, so the coordinator is called without a token")
    if request is None or config.coordinator_url is None:
        return None
    redactor.add(request.client_secret)
    return TokenAuth(f"https://{config.auth0_domain}/oauth/token", request, policy=policy, on_token=redactor.replace)


def _registration(config: RunnerConfig, profile: LoadedProfile) -> wire.Registration:
    return wire.Registration(
        hostname=config.hostname or socket.gethostname(),
        project_dir=str(config.project_dir),
        executor_profile=profile.name,
        executor=profile.executor_info(),
        tags=list(config.tags),
        require_matching_tags=config.require_matching_tags,
        agents=[runner_agent(agent) for agent in profile.agents],
    )
