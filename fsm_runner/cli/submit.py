"""`fsm-runner submit`."""

import asyncio
import json

import msgspec
import typer

from fsm_runner.cli.submission import coordinator_api, create_run, say_outcome
from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.faults import Refused, Unreachable
from fsm_runner.coordinator.policy import POLICIES
from fsm_runner.coordinator.wire import RunRequest
from fsm_runner.errors import EXIT_OK, UsageError
from fsm_runner.parameters import parse_parameters
from fsm_runner.retry import retrying

ENDED = frozenset({"completed", "failed", "stopped"})
LOOK_INTERVAL_S = 0.25
"""Deployed coordinators say nothing about the end of a run by themselves that could be relied on."""


def submit_run(url: str | None, agent_name: str, words: list[str], *, wait: bool) -> int:
    """The exit code: 1 where the run was waited for and did not complete."""
    return asyncio.run(_submit(url, agent_name, words, wait=wait))


async def _submit(url: str | None, agent_name: str, words: list[str], *, wait: bool) -> int:
    async with coordinator_api(url) as api:
        try:
            agent = await api.agent(agent_name)
        except Refused as refusal:
            raise UsageError(f"Agent not found: {agent_name!r} ({refusal})") from refusal
        parameters = parse_parameters(words, agent.parameters_schema)
        created = await create_run(api, RunRequest(agent_name=agent_name, parameters=parameters))
        if not wait:
            typer.echo(json.dumps(msgspec.to_builtins(created)))
            return EXIT_OK
        typer.echo(f"{created.run_id} is submitted; to stop it: fsm-runner stop {created.run_id}", err=True)
        await _wait_for_end(api, created.run_id)
        return await say_outcome(api, created.run_id)


async def _wait_for_end(api: CoordinatorApi, run_id: str) -> None:
    while True:
        run = await retrying(lambda: api.run(run_id), POLICIES.look_up, (Unreachable,))
        if run.status in ENDED:
            return
        await asyncio.sleep(LOOK_INTERVAL_S)
