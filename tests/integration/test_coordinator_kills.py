"""A coordinator is killed after a claim, before the response, and restarted with the same database."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.protocol.fencing import REGISTRATION_HEADER
from tests.support.embedded import autonomous, registration
from tests.support.program import environment
from tests.support.watch import PATIENCE_S

KILLED_AFTER_CLAIM = """
import os, signal
from fsm_runner.cli import main
from fsm_runner.coordinator_server.run_queue import RunQueue

claim = RunQueue.claim

async def killed(*arguments):
    if await claim(*arguments) is not None:
        os.kill(os.getpid(), signal.SIGKILL)

RunQueue.claim = killed
main()
"""
START = {"type": "start_session", "parameters": {"prompt": "hi"}}


@asynccontextmanager
async def coordinator(folder: Path, *start: str) -> AsyncIterator[tuple[httpx.AsyncClient, asyncio.subprocess.Process]]:
    """Yield a client of the process, which has the database of the folder."""
    command = [sys.executable, *start, "coordinator", "--port", "0", "--database", "runs.sqlite"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment(None), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            said = (await process.stderr.readline()).decode()
        found = re.search(r"http://[\d.:]+", said)
        assert found is not None, said
        async with httpx.AsyncClient(base_url=found[0], timeout=PATIENCE_S) as http:
            yield http, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def registered(http: httpx.AsyncClient) -> tuple[str, dict[str, str]]:
    """Return the id of the runner, and the header of a runner that takes part in fencing."""
    answer = (await http.post("/runner/register", json=registration(**autonomous()))).json()
    return answer["runner_id"], {REGISTRATION_HEADER: str(answer["registration"])}


async def claimed(http: httpx.AsyncClient, runner_id: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = await http.get("/runner/runs", params={"runner_id": runner_id}, headers=headers)
    run: dict[str, Any] = answer.json()["run"]
    return run


@pytest.mark.parametrize("is_fenced", [True, False], ids=["with a number", "without a number"])
async def test_a_claim_whose_coordinator_was_killed_before_the_response_is_not_lost(
    tmp_path: Path, is_fenced: bool
) -> None:
    async with coordinator(tmp_path, "-c", KILLED_AFTER_CLAIM) as (http, process):
        runner_id, number = await registered(http)
        headers = number if is_fenced else {}
        lost = (await http.post("/runs", json=START)).json()["run_id"]
        with pytest.raises(httpx.TransportError):
            await claimed(http, runner_id, headers)
        assert await process.wait() == -signal.SIGKILL
    async with coordinator(tmp_path, "-m", "fsm_runner") as (http, _):
        assert (await http.get("/runner/runs", params={"runner_id": runner_id}, headers=headers)).status_code == 401
        again, number = await registered(http)
        headers = number if is_fenced else {}
        assert again == runner_id
        other = (await http.post("/runs", json=START)).json()["run_id"]
        (listed,) = (await http.get("/runs?status=claimed")).json()["runs"]
        assert (listed["run_id"], listed["runner_id"], listed["attempt"]) == (lost, runner_id, 1)
        if is_fenced:
            assert (await claimed(http, runner_id, headers))["run_id"] == lost
        assert (await claimed(http, runner_id, headers))["run_id"] == other
        for run_id in (lost, other):
            body = {"runner_id": runner_id, "status": "success"}
            answer = await http.post(f"/runner/runs/{run_id}/completed", json=body, headers=headers)
            assert answer.status_code == 200
            assert (await http.get(f"/runs/{run_id}")).json()["status"] == "completed"
