"""`fsm-runner run`: one run, with a runner and a coordinator of its own."""

import asyncio
import dataclasses
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fsm_runner.app.build import assembled_runner
from fsm_runner.app.build_workflows import workflow_of
from fsm_runner.app.local_socket import SINGLE_RUN_PREFIX
from fsm_runner.cli.output import say
from fsm_runner.cli.parameters import with_types_of
from fsm_runner.cli.signals import STOP_AT_ONCE, post_on_signals
from fsm_runner.cli.submission import Work, create_run, say_outcome
from fsm_runner.config.profiles import LoadedProfile, load_profile, profile_paths
from fsm_runner.config.settings import RunnerConfig, known_secrets
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import MAX_CONNECTIONS, CoordinatorServer
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, UsageError
from fsm_runner.process.limits.open_files import BUNDLED_COORDINATOR_SHARE, OPEN_FILES
from fsm_runner.process.tree.rlimit_tag import tag_this_runner
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.protocol.approvals import ListedApproval
from fsm_runner.protocol.wire import Agent, JsonObject, Run, RunRequest
from fsm_runner.runtime.actors.run_context import Observer
from fsm_runner.runtime.actors.runner import RunnerActor
from fsm_runner.util import event_loop
from fsm_runner.workflow.file import LoadedWorkflow

STATE_CHARS = 20
"""The width of a state's name on a terminal."""


class Progress(Observer):
    """Prints status details on stderr, and states on a terminal. With `verbose` nothing: the log has all of that."""

    def __init__(self, *, verbose: bool) -> None:
        self.ended = asyncio.Event()
        self._shows_details = not verbose
        self._shows_states = not verbose and sys.stderr.isatty()
        self._began_at = 0.0
        self._entered_at: float | None = None
        self._state = ""

    def entered(self, run: Run, state: str, *, final: bool) -> None:
        if run.parent_session_id is not None:  # a child of the run
            return
        if final:
            self.ended.set()
        if not self._shows_states:
            return
        now = time.monotonic()
        if self._entered_at is None:
            self._began_at = now
        else:
            self._write(f"{now - self._entered_at:9.3f} s\n")
        self._entered_at, self._state = now, state
        self._write(_padded(state))
        if final:
            self._write(f"{now - self._began_at:9.3f} s in all\n")

    def reported(self, run: Run, state: str, detail: str) -> None:
        if run.parent_session_id is not None:
            return
        if self._shows_states:
            # The detail replaces the unfinished line of the state, which follows on the next line.
            self._write("\r")
            say(f"{detail:<{STATE_CHARS}}")
            self._write(_padded(state))
        elif self._shows_details:
            say(f"{_words(state)}: {detail}")

    def asked(self, approval: ListedApproval) -> None:
        if self._shows_states:
            self._write(f"\r{'':{STATE_CHARS}}\r")
        say(approval.question.rstrip("\n"))
        if self._shows_states:
            self._write(_padded(self._state))

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _words(state: str) -> str:
    return state.replace("_", " ")


def _padded(state: str) -> str:
    return f"{_words(state):<{STATE_CHARS}}"


def run_here(config: RunnerConfig, profile_name: str | None, work: Work, workflow_name: str | None) -> int:
    """Carry out one run and return the exit code: 0 if it completed, else 1.

    `workflow_name`: the name or the file of the workflow that it follows.
    """
    OPEN_FILES.raise_limit()
    configure_logs(known_secrets(), verbose=config.verbose, quiet=True)
    profile, agent = _profile_for(work, profile_name)
    for key in profile.unknown_keys:
        say(f"warning: {profile.path}: {key}: unknown key")
    workflow = None if workflow_name is None else workflow_of(workflow_name)
    request = RunRequest(
        type="start_session",
        agent_name=work.agent_name,
        parameters=work.parameters(_schema_of(profile, agent, workflow)),
        project_dir=str(config.project_dir),
    )
    tag_this_runner()
    SUBREAPER.enable(exclusive=True)
    with TemporaryDirectory(prefix=SINGLE_RUN_PREFIX) as state_dir:
        local = dataclasses.replace(
            config, coordinator_url=None, state_dir=Path(state_dir), exit_after_runs=None, exit_when_idle_s=None
        )
        return event_loop.run(_run(local, profile, request, workflow))


def _schema_of(profile: LoadedProfile, agent: Agent | None, workflow: LoadedWorkflow | None) -> JsonObject | None:
    """Return the schema of the parameters: that of the agent, and the types that the workflow of the run declares."""
    schema = None if agent is None else agent.parameters_schema
    name = (agent and agent.workflow) or profile.profile.workflow
    if workflow is None and name is not None:
        with suppress(UsageError):  # it is reported for the run
            workflow = workflow_of(name)
    return schema if workflow is None else with_types_of(workflow.definition, schema)


def _profile_for(work: Work, profile_name: str | None) -> tuple[LoadedProfile, Agent | None]:
    """Return a profile that can do the work, and its agent."""
    if work.agent_name is None:
        work.parameters()  # a missing prompt is reported before a missing profile
        return _autonomous_profile(profile_name), None
    return find_agent(work.agent_name, profile_name)


def _autonomous_profile(name: str | None) -> LoadedProfile:
    """Return the named profile. Raises `UsageError` with the profiles that accept runs without an agent."""
    if name is not None and (profile := load_profile(name)).profile.type == "autonomous":
        return profile
    profiles, defects = _valid_profiles()
    there_are = ", ".join(each.name for each in profiles if each.profile.type == "autonomous") or "none"
    wanted = "a run without an AGENT needs --profile NAME, of a profile of type autonomous"
    refused = "" if name is None else f", which {name!r} is not"
    raise UsageError(f"{wanted}{refused}; there are: {there_are}{defects and f'; {defects}'}")


def find_agent(name: str, profile_name: str | None) -> tuple[LoadedProfile, Agent]:
    """Return the agent of the named profile, or of the first one that has it. Raises `UsageError` with the choices."""
    if profile_name is not None:
        profiles, defects = [load_profile(profile_name)], ""
    else:
        profiles, defects = _valid_profiles()
    agents = {agent.name: (profile, agent) for profile in reversed(profiles) for agent in profile.agents}
    if name in agents:
        return agents[name]
    there_are = ", ".join(sorted(agents)) or "none"
    if defects:
        raise UsageError(
            f"Agent not found: {name!r}; probably because {defects}; the other profiles have these agents: {there_are}"
        )
    place = f"profile {profile_name!r}" if profile_name else "any profile"
    raise UsageError(f"Agent not found: {name!r} in {place}; there are: {there_are}")


def _valid_profiles() -> tuple[list[LoadedProfile], str]:
    """Return the valid profiles, and the errors of the others as text, which may be empty."""
    profiles, defects = [], []
    for name in profile_paths():
        try:
            profiles.append(load_profile(name))
        except UsageError as error:
            defects.append(f"profile {name!r} could not be loaded: {error}")
    return profiles, "; ".join(defects)


async def _run(
    config: RunnerConfig, profile: LoadedProfile, request: RunRequest, workflow: LoadedWorkflow | None = None
) -> int:
    progress = Progress(verbose=config.verbose)
    max_connections = OPEN_FILES.share(MAX_CONNECTIONS, BUNDLED_COORDINATOR_SHARE)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(CoordinatorServer(port=0, max_connections=max_connections))
        assembled = assembled_runner(
            config, profile, server.url, observer=progress, redactor=known_secrets(), workflow=workflow
        )
        runner = await stack.enter_async_context(assembled)
        api = await stack.enter_async_context(CoordinatorApi(server.url))
        living = asyncio.create_task(runner.live(), name="runner")
        with post_on_signals(runner, STOP_AT_ONCE):
            try:
                run_id = await _submit_when_registered(runner, living, api, request)
                await first_of(progress.ended.wait(), living)
            finally:
                runner.post("stop_now_requested", "the one run has ended")
                outcome = await living
            if outcome == "aborted":
                # Within the context, since the default action of a further signal would interrupt the kill.
                await stack.aclose()
                return EXIT_ABORTED
        if run_id is not None:
            return await say_outcome(api, run_id)
        if outcome == "stopped":  # the log explains every other outcome
            say("error: stopped before the run began")
        return EXIT_FAILED


async def _submit_when_registered(
    runner: RunnerActor, living: "asyncio.Task[str]", api: CoordinatorApi, request: RunRequest
) -> str | None:
    """Return the run's id; None if the runner has ended, or is ending, before the submission."""
    await first_of(runner.wait_for_registration(), living)
    if living.done():
        return None
    try:
        return (await create_run(api, request)).run_id
    except UsageError:
        if runner.is_ending:  # its agents are no longer registered
            return None
        raise


async def first_of(wanted: Coroutine[Any, Any, Any], living: "asyncio.Task[str]") -> None:
    """Wait for `wanted`, or until the runner has ended."""
    waiting = asyncio.create_task(wanted, name="wait")
    try:
        await asyncio.wait({waiting, living}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
