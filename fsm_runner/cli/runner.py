"""`fsm-runner`: a runner, until signals or the coordinator end it."""

import asyncio
import contextlib
import os
import sys
from contextlib import AsyncExitStack
from typing import NoReturn

from loguru import logger

from fsm_runner.app.build import assembled_runner
from fsm_runner.cli.signals import DRAIN_FIRST, post_on_signals
from fsm_runner.config.profiles import LoadedProfile, load_profile
from fsm_runner.config.settings import LOCAL_COORDINATOR_URL, RunnerConfig, known_secrets
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.process.init import hide_memory
from fsm_runner.process.limits.open_files import BUNDLED_COORDINATOR_SHARE, OPEN_FILES
from fsm_runner.process.tree.rlimit_tag import tag_this_runner
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.protocol.wire import Agent
from fsm_runner.util import event_loop

ABORT_LIMIT_S = 5.0
"""The time in which an aborted runner kills its processes and closes its journal."""

EXIT_CODES = {
    "stopped": EXIT_OK,
    "refused": EXIT_FAILED,
    "gave_up": EXIT_FAILED,
    "superseded": EXIT_FAILED,
    "aborted": EXIT_ABORTED,
}
"""The exit code for each outcome of `specs/runner.toml`."""


def run_runner(config: RunnerConfig) -> int:
    """Run a runner to its end and return the exit code."""
    hide_memory()
    OPEN_FILES.raise_limit()
    redactor = known_secrets()
    configure_logs(redactor, verbose=config.verbose)
    profile = load_profile(config.profile)
    for key in profile.unknown_keys:
        logger.warning("{}: {}: unknown key", profile.path, key)
    tag_this_runner()
    # As process 1 of a container, if no init could be forked above it, it also gets orphans that no run started.
    SUBREAPER.enable(exclusive=os.getpid() != 1)
    return event_loop.run(_serve(config, profile, redactor))


async def _serve(config: RunnerConfig, profile: LoadedProfile, redactor: Redactor) -> int:
    async with AsyncExitStack() as stack:
        url = config.coordinator_url or await _embedded_coordinator(stack)
        runner = await stack.enter_async_context(assembled_runner(config, profile, url, redactor=redactor))
        if config.coordinator_url is None:
            logger.info("no coordinator URL was given, so a coordinator serves at {} until this runner ends", url)
            for example in submit_examples(profile):
                logger.info("submit a run: {}", example)
        with post_on_signals(runner, DRAIN_FIRST):
            code = EXIT_CODES[await runner.live()]
            if code == EXIT_ABORTED:
                # Within the context, since the default action of a further signal would interrupt the kill.
                await _exit_at_once(stack, code)
        return code


async def _exit_at_once(stack: AsyncExitStack, code: int) -> NoReturn:
    """Close the stack, and exit without waiting for threads that a hanging file system blocks."""
    # The time-out below interrupts what hangs at that moment. What is closed after it may hang as well.
    asyncio.get_running_loop().call_later(2 * ABORT_LIMIT_S, os._exit, code)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_LIMIT_S):
                await stack.aclose()
        sys.stderr.flush()
    finally:
        os._exit(code)


async def _embedded_coordinator(stack: AsyncExitStack) -> str:
    from fsm_runner.coordinator_server.server import MAX_CONNECTIONS, CoordinatorServer
    from fsm_runner.http_server.listener import PortInUse

    if os.environ.get("AUTH_ENABLED"):
        logger.warning("AUTH_ENABLED has no effect here: the coordinator that a runner starts requires no tokens")
    max_connections = OPEN_FILES.share(MAX_CONNECTIONS, BUNDLED_COORDINATOR_SHARE)
    try:
        server = await stack.enter_async_context(CoordinatorServer(max_connections=max_connections))
    except PortInUse as error:
        hint = f"if it is a coordinator, name it with --coordinator-url {LOCAL_COORDINATOR_URL}"
        raise UsageError(f"no coordinator URL was given, and no coordinator can be started: {error}; {hint}") from error
    return server.url


def submit_examples(profile: LoadedProfile) -> list[str]:
    """Return command lines for another terminal: one for each agent, and one without if the profile allows it."""
    examples = [_agent_example(agent) for agent in profile.agents]
    if profile.profile.type == "autonomous":
        examples.append('fsm-runner submit --prompt "hello" --wait')
    return examples


def _agent_example(agent: Agent) -> str:
    required = (agent.parameters_schema or {}).get("required")
    keys = required if isinstance(required, list) else []
    return " ".join(["fsm-runner submit", agent.name, *(f"{key}=…" for key in keys), "--wait"])
