"""`fsm-runner submit`."""

import asyncio
import shlex
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from itertools import count
from typing import Any, NoReturn

import msgspec

from fsm_runner.cli.output import say, show_json
from fsm_runner.cli.parameters import check_utf8
from fsm_runner.cli.queue_options import QueueFlags, unconfirmed
from fsm_runner.cli.submission import Work, coordinator_api, create_run, earlier_results, say_outcome, usage_error_of
from fsm_runner.cli.waiting import reasons_to_wait
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused, Unreachable
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.errors import EXIT_OK, UsageError
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunRequest
from fsm_runner.util import event_loop
from fsm_runner.util.retry import retrying

PENDING_LOOK_UPS = 20
"""After this many look-ups (5 s), a pending run may have no runner, and a hint is printed."""

LOOK_INTERVAL_S = 0.25
"""The interval of look-ups. Deployed coordinators send no reliable notification of the end of a run."""


def submit_run(url: str | None, work: Work, profile: str | None, options: QueueFlags, *, wait: bool) -> int:
    """Submit a run for runners with this `profile`. Return the exit code: 1 if an awaited run did not complete."""
    if profile and work.session_id is not None:
        raise UsageError(f"--profile {profile} with --session: a session keeps its profile, so name no profile")
    return event_loop.run(_submit(url, work, profile, options.fields(), wait=wait))


async def _submit(url: str | None, work: Work, profile: str | None, fields: dict[str, Any], *, wait: bool) -> int:
    there = f" -c {shlex.quote(url)}" if url else ""
    async with coordinator_api(url) as api:
        request = msgspec.structs.replace(await _request(api, work, profile, fields["idempotency_key"]), **fields)
        resumed = request.type == "resume_session"
        earlier = await earlier_results(api, request) if wait and resumed else None
        created = await create_run(api, request)
        run_id, session_id = created.run_id, created.session_id
        if flags := unconfirmed(request, created):
            await _refuse(api, run_id, flags, there)
        if earlier is not None and request.idempotency_key is not None and created.status != "pending":
            earlier = Counter()  # the key is repeated, so the last result may be that of this run
        if not wait:
            show_json(created)
            return EXIT_OK
        say(f"{run_id} of {session_id} is submitted; to stop it: fsm-runner stop {run_id}{there}")
        await _wait_for_end(api, run_id)
        code = await say_outcome(api, run_id, earlier)
        with suppress(CoordinatorError):  # only a hint depends on the answer
            if await api.session_status(session_id) == "idle":
                say(f"to continue: fsm-runner submit --session {session_id} --prompt … --wait{there}")
        return code


async def _refuse(api: CoordinatorApi, run_id: str, flags: list[str], there: str) -> NoReturn:
    """Stop a run whose options have no effect. Raises `UsageError`."""
    try:
        await api.stop_run(run_id)
        end = f"{run_id} was stopped"
    except CoordinatorError as fault:
        end = f"{run_id} could not be stopped ({fault}): fsm-runner stop {run_id}{there}"
    raise UsageError(
        f"{', '.join(flags)}: the coordinator at {api.url} does not confirm this, so it may ignore it; {end}"
    )


async def _request(api: CoordinatorApi, work: Work, profile: str | None, key: str | None) -> RunRequest:
    """Raises `UsageError`. Without an agent there is no call to the coordinator before."""
    if work.session_id is not None:
        return RunRequest(type="resume_session", session_id=work.session_id, parameters=work.parameters())
    if profile:
        check_utf8(f"--profile: {profile!r}", profile)
    demands = {"executor_profile": profile} if profile else None
    if work.agent_name is None:
        return RunRequest(type="start_session", parameters=work.parameters(), additional_demands=demands)
    return RunRequest(
        type="start_session",
        agent_name=work.agent_name,
        parameters=work.parameters(await _schema_of(api, work.agent_name, key)),
        additional_demands=demands,
    )


async def _schema_of(api: CoordinatorApi, agent_name: str, key: str | None) -> JsonObject | None:
    """Return the schema of the agent's parameters. Raises `UsageError` if there is no such agent.

    With an idempotency key, the run may have been started while there was one.
    """
    with usage_error_of(lambda refusal: f"Agent not found: {agent_name!r} ({refusal})"):
        try:
            return (await api.agent(agent_name)).parameters_schema
        except Refused as refusal:
            if key is None or refusal.status != HTTPStatus.NOT_FOUND:
                raise
            return None


async def _wait_for_end(api: CoordinatorApi, run_id: str) -> None:
    for look_ups in count(1):
        run = await retrying(lambda: api.run(run_id), POLICIES.look_up, (Unreachable,))
        if run.status in TERMINAL_RUN_STATUSES:
            return
        if run.status == "pending" and look_ups == PENDING_LOOK_UPS:
            with suppress(CoordinatorError):  # only a hint depends on the answer
                say("\n".join(reasons_to_wait(run, await api.runners())))
        await asyncio.sleep(LOOK_INTERVAL_S)
