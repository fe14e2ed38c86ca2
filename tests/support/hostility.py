"""The outcomes of the hostile executor's attempts, compared with docs/security.md."""

import re
from pathlib import Path
from typing import Any

import psutil

from fsm_runner.protocol.wire import RunCreated, RunRequest
from tests.support.program import REPOSITORY
from tests.support.runner import System

HOSTILE = (REPOSITORY / "tests/support/executors/hostile").read_text()
SECRET = "S3cr3t-of-the-runner"
VARIABLES = {"AUTH0_RUNNER_CLIENT_SECRET": SECRET, "DEPLOY_TOKEN": SECRET}
"""What the runner has of it."""
LAST_ATTEMPT = "outlive-the-run"
_ROW = re.compile(r"^\| `(?P<attempt>[a-z-]+)` \| (?P<same>[^|]*) \| (?P<other>[^|]*) \|", re.MULTILINE)


def documented(column: str) -> dict[str, bool]:
    """Return which attempts the document says are prevented. `column`: `same` or `other` user."""
    document = (REPOSITORY / "docs" / "security.md").read_text()
    return {row["attempt"]: row[column].strip().startswith("stopped") for row in _ROW.finditer(document)}


async def victim_of(system: System, waits_at: Path, workspace: Path) -> RunCreated:
    """A run whose executor writes its process id to `waits_at`, and waits until it is stopped."""
    parameters = {"prompt": "", "wait_at": str(waits_at)}
    return await system.api.create_run(
        RunRequest(type="start_session", parameters=parameters, project_dir=str(workspace))
    )


async def outcomes_of(system: System, victim: RunCreated, listener: psutil.Process, **given: Any) -> dict[str, str]:
    """Run the attempts. `listener`: the runner's process; `given`: what the executor sees instead."""
    listening = [each for each in listener.net_connections("tcp4") if each.status == psutil.CONN_LISTEN]
    parameters = {
        "prompt": "",
        "secrets": [SECRET],
        "other_session": victim.session_id,
        "other_run": victim.run_id,
        "runner_id": (await system.runners())[0]["runner_id"],
        "runner_ports": [each.laddr.port for each in listening],
        **given,
    }
    run = await system.api.create_run(RunRequest(type="start_session", parameters=parameters))
    await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/completed")
    result: dict[str, str] | None = await system.result(run)
    assert result is not None
    assert "result" not in [each.event_type for each in await system.api.session_events(victim.session_id)]
    return result


def stopped(outcomes: dict[str, str]) -> dict[str, bool]:
    """Whether each attempt came to nothing. The last one's process is looked for by who knows where it is."""
    return {attempt: outcome != "got" for attempt, outcome in outcomes.items() if attempt != LAST_ATTEMPT}
