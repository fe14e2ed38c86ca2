"""`fsm-runner runs` and `fsm-runner stop`."""

from typing import get_args

import msgspec

from fsm_runner.cli.output import Row, show_json, show_table
from fsm_runner.cli.submission import coordinator_api, usage_error_of
from fsm_runner.errors import UsageError
from fsm_runner.protocol.statuses import RunStatus
from fsm_runner.protocol.wire import Run
from fsm_runner.util import event_loop
from fsm_runner.util.error_text import headline
from fsm_runner.util.text import excerpt

COLUMNS = ("RUN", "STATUS", "AGENT", "SESSION", "CREATED", "ERROR")
ERROR_CHARS = 60
"""The width of the column of errors. The whole text is in `--json`."""


def list_runs(url: str | None, status: str | None, *, as_json: bool) -> None:
    statuses = get_args(RunStatus)
    if status is not None and status not in statuses:
        raise UsageError(f"--status: unknown value {status!r}; choose one of {', '.join(statuses)}")
    runs = event_loop.run(_fetch(url, status))
    if as_json:
        for run in runs:
            # A Struct omits fields with their default. Here all fields are printed.
            show_json(msgspec.structs.asdict(run))
        return
    show_table(COLUMNS, map(_row, runs))


def stop(url: str | None, name: str) -> None:
    """Stop a run, or a session and its waiting executor. Raises `UsageError` if the coordinator refuses."""
    with usage_error_of(lambda refusal: f"{name!r} is not stopped: {refusal}"):
        event_loop.run(_stop(url, name))


async def _fetch(url: str | None, status: str | None) -> list[Run]:
    async with coordinator_api(url) as api:
        return await api.runs(status)


async def _stop(url: str | None, name: str) -> None:
    async with coordinator_api(url) as api:
        if name.startswith("ses_"):
            await api.stop_session(name)
        else:
            await api.stop_run(name)


def _row(run: Run) -> Row:
    error = excerpt(headline(run.error or ""), ERROR_CHARS)
    return (run.run_id, run.status, run.agent_name or "-", run.session_id, run.created_at or "-", error)
