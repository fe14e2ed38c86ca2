"""Handing a run to a coordinator, and saying what came of it."""

import json
import sys
from typing import Any

import msgspec
import typer

from fsm_runner.assembly import token_auth
from fsm_runner.config import LOCAL_COORDINATOR_URL, load_config
from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.wire import DECODE_FAULTS, JsonObject, RunCreated, RunRequest
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError


class _ValidationError(msgspec.Struct, frozen=True):
    message: str
    path: Any = ""

    def __str__(self) -> str:
        path = ".".join(map(str, self.path)) if isinstance(self.path, list) else str(self.path)
        return f"{path.removeprefix('$').strip('.') or 'parameters'}: {self.message}"


class _Detail(msgspec.Struct, frozen=True):
    error: str = ""
    message: str = ""
    validation_errors: tuple[_ValidationError, ...] = ()


class _Rejection(msgspec.Struct, frozen=True):
    """A 4xx to `POST /runs` (section 1.3)."""

    detail: _Detail | str


def coordinator_api(url: str | None) -> CoordinatorApi:
    """The coordinator that the flag, the environment or `.env` names, else the one on this machine."""
    config = load_config({"coordinator_url": url})
    named_url = config.coordinator_url or LOCAL_COORDINATOR_URL
    return CoordinatorApi(named_url, token_auth(msgspec.structs.replace(config, coordinator_url=named_url)))


async def create_run(api: CoordinatorApi, request: RunRequest) -> RunCreated:
    """Raises `UsageError` with the coordinator's reasons where it will not take the run."""
    try:
        return await api.create_run(request)
    except Refused as refusal:
        raise UsageError(_reason(request, refusal)) from refusal


async def say_outcome(api: CoordinatorApi, run_id: str) -> int:
    """Print the result of an ended run as one line of JSON, and say on stderr why it did not complete.

    The exit code.
    """
    run = await api.run(run_id)
    value = await _result(api, run.session_id)
    if value is not None:
        if sys.stdout is None:
            raise FsmRunnerError(
                f"run {run_id} {run.status}, but its result has nowhere to go: standard output is closed"
            )
        typer.echo(json.dumps(value, ensure_ascii=False))
    if run.status == "completed":
        return EXIT_OK
    typer.echo(f"error: run {run_id} {run.status}" + (f": {run.error}" if run.error else ""), err=True)
    return EXIT_FAILED


async def _result(api: CoordinatorApi, session_id: str) -> JsonObject | str | None:
    """The last result event, rather than the session's result: a coordinator has none for a run that failed."""
    events = [event for event in await api.session_events(session_id) if event.event_type == "result"]
    if not events:
        return None
    last = max(events, key=lambda event: event.timestamp)
    return last.result_text if last.result_data is None else last.result_data


def _reason(request: RunRequest, refusal: Refused) -> str:
    try:
        detail = msgspec.json.decode(refusal.body, type=_Rejection).detail
    except DECODE_FAULTS:
        return str(refusal)
    if isinstance(detail, str):
        return detail or str(refusal)
    if detail.validation_errors:
        reasons = "; ".join(map(str, detail.validation_errors))
        return f"agent {request.agent_name!r} does not take these parameters: {reasons}"
    return detail.message or detail.error or str(refusal)
