"""`fsm-runner runs` and `fsm-runner stop`."""

from typing import get_args

import msgspec

from fsm_runner.cli.moments import moment_of
from fsm_runner.cli.output import Row, show_json, show_table
from fsm_runner.cli.parameters import check_utf8
from fsm_runner.cli.submission import coordinator_api, usage_error_of
from fsm_runner.config import parse
from fsm_runner.coordinator_client.api import oldest_first
from fsm_runner.errors import UsageError
from fsm_runner.protocol.event_clock import utc_of
from fsm_runner.protocol.statuses import RunStatus
from fsm_runner.protocol.wire import Run
from fsm_runner.util import event_loop
from fsm_runner.util.error_text import headline
from fsm_runner.util.text import excerpt

COLUMNS = ("RUN", "STATUS", "AGENT", "SESSION", "CREATED", "ERROR")
ERROR_CHARS = 60
"""The width of the column of errors. The whole text is in `--json`."""


class RunChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The text of each option that chooses runs; None: not given."""

    status: str | None = None
    agent_name: str | None = None
    runner_id: str | None = None
    tag: str | None = None
    since: str | None = None
    limit: str | None = None

    def query(self) -> dict[str, str]:
        """Return the fields of the query (protocol.md, section 1.3). Raises `UsageError` that names the flag."""
        statuses = get_args(RunStatus)
        if self.status is not None and self.status not in statuses:
            raise UsageError(f"--status: unknown value {self.status!r}; choose one of {', '.join(statuses)}")
        fields = {
            "status": self.status,
            "agent_name": self.agent_name,
            "runner_id": self.runner_id,
            "tag": self.tag,
            "created_after": None if self.since is None else utc_of(moment_of("--since", self.since, -1)),
        }
        for flag, text in (("--agent", self.agent_name), ("--runner", self.runner_id), ("--tag", self.tag)):
            check_utf8(f"{flag}: {text!r}", text or "")
        return {name: text for name, text in fields.items() if text is not None}

    def most(self) -> int | None:
        """Return the greatest number of runs; None: all. Raises `UsageError`."""
        try:
            return None if self.limit is None else parse.count(self.limit)
        except ValueError as error:
            raise UsageError(f"--limit: {self.limit!r}: {error}") from error


def list_runs(url: str | None, choice: RunChoice, *, as_json: bool) -> None:
    """Print the runs, the oldest first."""
    runs = event_loop.run(_fetch(url, choice.query(), choice.most()))
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


async def _fetch(url: str | None, query: dict[str, str], most: int | None) -> list[Run]:
    runs: list[Run] = []
    async with coordinator_api(url) as api:
        async for page in api.run_pages(query, most):
            runs += [run for run in page if _is_chosen(run, query)]
            if most is not None and len(runs) >= most:
                break
    return oldest_first(runs)[-most if most else 0 :]


def _is_chosen(run: Run, query: dict[str, str]) -> bool:
    """Return whether a run matches. A deployed coordinator ignores all filters but `status`."""
    compared = {"agent_name": run.agent_name, "runner_id": run.runner_id}
    if any(name in query and query[name] != value for name, value in compared.items()):
        return False
    tags = (run.demands or {}).get("tags")
    if "tag" in query and not (isinstance(tags, list) and query["tag"] in tags):
        return False
    return "created_after" not in query or _is_later(run.created_at, query["created_after"])


def _is_later(created_at: str | None, after: str) -> bool:
    """Compare times as text: to the second they have one format, and another coordinator's may have no offset."""
    return created_at is not None and created_at[:19] >= after[:19]


async def _stop(url: str | None, name: str) -> None:
    async with coordinator_api(url) as api:
        if name.startswith("ses_"):
            await api.stop_session(name)
        else:
            await api.stop_run(name)


def _row(run: Run) -> Row:
    error = excerpt(headline(run.error or ""), ERROR_CHARS)
    return (run.run_id, run.status, run.agent_name or "-", run.session_id, run.created_at or "-", error)
