"""`fsm-runner runs` and `fsm-runner stop`."""

import asyncio

import msgspec
import typer

from fsm_runner.cli.submission import coordinator_api
from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.wire import Run
from fsm_runner.errors import UsageError

COLUMNS = ("RUN", "STATUS", "AGENT", "SESSION", "CREATED")


def list_runs(url: str | None, status: str | None, *, as_json: bool) -> None:
    runs = asyncio.run(_fetch(url, status))
    if as_json:
        for run in runs:
            typer.echo(msgspec.json.encode(run))
        return
    rows = [COLUMNS, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def stop_run(url: str | None, run_id: str) -> None:
    try:
        asyncio.run(_stop(url, run_id))
    except Refused as refusal:
        raise UsageError(f"run {run_id!r} is not stopped: {refusal}") from refusal


async def _fetch(url: str | None, status: str | None) -> list[Run]:
    async with coordinator_api(url) as api:
        return await api.runs(status)


async def _stop(url: str | None, run_id: str) -> None:
    async with coordinator_api(url) as api:
        await api.stop_run(run_id)


def _row(run: Run) -> tuple[str, ...]:
    return (run.run_id, run.status, run.agent_name or "-", run.session_id, run.created_at or "-")
