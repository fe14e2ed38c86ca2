"""`fsm-runner submit`."""

import asyncio
import shlex

from fsm_runner.cli.output import say, show_json
from fsm_runner.cli.submission import Work, check_text, coordinator_api, create_run, earlier_results, say_outcome
from fsm_runner.cli.waiting import reasons_to_wait
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused, Unreachable
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.errors import EXIT_OK, UsageError
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import Agent, Run, RunRequest
from fsm_runner.util import event_loop
from fsm_runner.util.retry import retrying

PENDING_LOOKS = 20
"""A run that is still pending after so many look-ups, 5 s, may have no runner."""

LOOK_INTERVAL_S = 0.25
"""Deployed coordinators say nothing about the end of a run by themselves that could be relied on."""


def submit_run(url: str | None, work: Work, profile: str | None, *, wait: bool) -> int:
    """The exit code: 1 where the run was waited for and did not complete.

    `profile`: only a runner that was started as this one takes the run.
    """
    if profile and work.session_id is not None:
        raise UsageError(f"--profile {profile} with --session: a session keeps its profile, so name none")
    return event_loop.run(_submit(url, work, profile, wait=wait))


async def _submit(url: str | None, work: Work, profile: str | None, *, wait: bool) -> int:
    there = f" -c {shlex.quote(url)}" if url else ""
    async with coordinator_api(url) as api:
        request = await _request(api, work, profile)
        resumed = request.type == "resume_session"
        earlier = await earlier_results(api, request) if wait and resumed else None
        created = await create_run(api, request)
        run_id, session_id = created.run_id, created.session_id
        if not wait:
            show_json(created)
            return EXIT_OK
        say(f"{run_id} of {session_id} is submitted; to stop it: fsm-runner stop {run_id}{there}")
        await _wait_for_end(api, run_id)
        code = await say_outcome(api, run_id, earlier)
        if await _lives_on(api, session_id):
            say(f"to go on: fsm-runner submit --session {session_id} --prompt … --wait{there}")
        return code


async def _request(api: CoordinatorApi, work: Work, profile: str | None) -> RunRequest:
    """Raises `UsageError`, and where no agent is named before anything is asked of the coordinator."""
    if work.session_id is not None:
        return RunRequest(type="resume_session", session_id=work.session_id, parameters=work.parameters())
    demands = {"executor_profile": check_text("--profile", profile)} if profile else None
    if work.agent_name is None:
        return RunRequest(type="start_session", parameters=work.parameters(), additional_demands=demands)
    try:
        agent = await api.agent(work.agent_name, Agent)
    except NotAuthenticated:
        raise
    except Refused as refusal:
        raise UsageError(f"Agent not found: {work.agent_name!r} ({refusal})") from refusal
    return RunRequest(
        type="start_session",
        agent_name=work.agent_name,
        parameters=work.parameters(agent.parameters_schema),
        additional_demands=demands,
    )


async def _wait_for_end(api: CoordinatorApi, run_id: str) -> None:
    looks = 0
    while True:
        run = await retrying(lambda: api.run(run_id), POLICIES.look_up, (Unreachable,))
        if run.status in TERMINAL_RUN_STATUSES:
            return
        looks += 1
        if run.status == "pending" and looks == PENDING_LOOKS:
            await _say_why_it_waits(api, run)
        await asyncio.sleep(LOOK_INTERVAL_S)


async def _say_why_it_waits(api: CoordinatorApi, run: Run) -> None:
    """Print a hint. Prints nothing if the coordinator does not answer."""
    try:
        runners = await api.runners()
    except CoordinatorError:
        return
    for line in reasons_to_wait(run, runners):
        say(line)


async def _lives_on(api: CoordinatorApi, session_id: str) -> bool:
    """Whether the session's executor waits for its next turn. Nobody waits for the answer where there is none."""
    try:
        return await api.session_status(session_id) == "idle"
    except CoordinatorError:
        return False
