"""A model of the journal in memory. When its process is killed, it loses what is not on disk yet."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fsm_runner.journal.journal import JournalUnwritable
from fsm_runner.journal.records import (
    EndedRun,
    OpenRun,
    OpenSession,
    Recovered,
    Report,
    StoredMessage,
    Transition,
    WorkflowPosition,
    utc_text,
)
from tests.support.crash_model.workflow_replay import WorkflowCalls, WorkflowReplay


class KillSwitch:
    """Kills a process at its kill point number `kill_at`, or never if that is None.

    The models call `kill_point` wherever a process may be killed.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.is_killed = False
        self.killed = asyncio.Event()
        self._remaining = kill_at

    def kill_point(self) -> None:
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining <= 0:
                self.is_killed = True
                self.killed.set()

    async def block_if_killed(self) -> None:
        """Return if the process is alive. A killed process waits here for ever."""
        if self.is_killed:
            await asyncio.get_running_loop().create_future()


class JournalCall(NamedTuple):
    """A call of one of the journal's recording methods."""

    method: str
    arguments: tuple[Any, ...]
    commit: int = 0
    """Calls in a row with the same number are on disk together."""
    at: str = ""
    """The wall clock."""


def _ignore(*_: object) -> None:
    pass


class ModelJournal(WorkflowCalls):
    """`Record` and `MessageStore` of one process. `past`: the calls that earlier processes have left on disk."""

    def __init__(
        self,
        past: Sequence[JournalCall],
        kill_switch: KillSwitch,
        commit_s: float = 0.0,
        *,
        on_unwritable: Callable[[JournalUnwritable], None] = _ignore,
        on_writable: Callable[[], None] = _ignore,
        has_file: bool = False,
        has_commits: bool = False,
    ) -> None:
        """`has_file`: whether the runner counts on a next process that reads the journal. `has_commits`: whether calls
        without an `await` between them are one commit, as in the real journal. It needs an event loop.
        """
        self.calls = list(past)
        self.recovered = recovered(past)
        self.on_unwritable = on_unwritable
        self.on_writable = on_writable
        self.unwritable: JournalUnwritable | None = None
        self.path = Path("journal") if has_file else None
        self.earlier_processes = ("earlier",)
        """Not empty, as for every process but the first one."""
        self._kill_switch = kill_switch
        self._commit_s = commit_s
        self._on_disk = len(self.calls)
        self._has_commits = has_commits
        self._commit_begin: int | None = None
        """The number of calls before the commit that is being gathered."""
        self._last_message = sum(call.method == "store_message" for call in past)

    def calls_on_disk(self, lost: int) -> list[JournalCall]:
        """Return all but the last `lost` calls, without a part of a commit. Flushed calls are never lost."""
        count = max(self._on_disk, len(self.calls) - lost)
        while self._on_disk < count < len(self.calls) and self.calls[count - 1].commit == self.calls[count].commit:
            count -= 1
        return self.calls[:count]

    def make_unwritable(self) -> None:
        """Fail as on a full disk."""
        self.unwritable = JournalUnwritable(None, "database or disk is full")
        self.on_unwritable(self.unwritable)

    def make_writable(self) -> None:
        self.unwritable = None
        self.on_writable()

    def record_transition(self, step: Transition) -> None:
        self._record("record_transition", step)

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None:
        self._record("record_claim", run_id, session_id, agent, runner_id, run)

    def record_report(self, run_id: str, report: Report | None) -> None:
        self._record("record_report", run_id, report)

    def record_usage(self, run_id: str, usage: bytes) -> None:
        self._record("record_usage", run_id, usage)

    def record_wait(self, run_id: str, wait: bytes | None) -> None:
        self._record("record_wait", run_id, wait)

    def record_workspace(self, run_id: str, state: bytes) -> None:
        self._record("record_workspace", run_id, state)

    def record_run_end(self, run_id: str) -> None:
        self._record("record_run_end", run_id)

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None:
        self._record("record_session_start", session_id, runner_id, run)

    def record_session_end(self, session_id: str) -> None:
        self._record("record_session_end", session_id)

    def store_message(self, session_id: str, content: bytes) -> int:
        self._last_message += 1
        self._record("store_message", session_id, content)
        return self._last_message

    def delete_message(self, message_id: int) -> None:
        self._record("delete_message", message_id)

    async def message(self, message_id: int) -> bytes:
        await self._kill_switch.block_if_killed()
        return next(each.content or b"" for each in recovered(self.calls).messages if each.id == message_id)

    async def has_run(self, run_id: str) -> bool:
        await self._kill_switch.block_if_killed()
        run = _replayed(self.calls).runs.get(run_id)
        return run is not None and (not run.has_ended or run.report is not None)

    async def flush(self) -> None:
        await self._kill_switch.block_if_killed()
        if self.unwritable is not None:
            raise self.unwritable
        noted = len(self.calls)
        await asyncio.sleep(self._commit_s)
        await self._kill_switch.block_if_killed()
        if self.unwritable is not None:
            raise self.unwritable
        self._on_disk = max(self._on_disk, noted)

    def _record(self, method: str, *arguments: object) -> None:
        if self._kill_switch.is_killed:
            return
        if self._commit_begin is None:
            self._commit_begin = len(self.calls)
            if self._has_commits:
                asyncio.get_running_loop().call_soon(self._end_commit)
        self.calls.append(JournalCall(method, arguments, self._commit_begin, utc_text()))
        self._kill_switch.kill_point()
        if not self._has_commits:
            self._end_commit()
        else:
            self._drop_commit_if_killed(self._commit_begin)

    def _drop_commit_if_killed(self, begin: int) -> None:
        if self._kill_switch.is_killed:
            del self.calls[begin:]

    def _end_commit(self) -> None:
        self._commit_begin = None


class _OpenItem:
    """A run or a session, as the notes tell of it."""

    def __init__(self, start_arguments: tuple[Any, ...]) -> None:
        self.start_arguments = start_arguments
        self.state = ""
        self.outcome: str | None = None
        self.provisional = False
        self.failure: str | None = None
        self.interruptions = 0
        self.report: Report | None = None
        self.usage: bytes | None = None
        self.wait: bytes | None = None
        self.workspace: bytes | None = None
        self.has_ended = False

    def step(self, step: Transition) -> None:
        if step.source is None:
            self.failure, self.interruptions = None, 0
        self.state, self.outcome, self.provisional = step.target, step.outcome, step.provisional
        if step.outcome == "failed" and self.failure is None:
            self.failure = step.reason
        self.interruptions += step.event == "interrupted"


class _Replay(WorkflowReplay):
    """Goes through the notes once."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, _OpenItem] = {}
        self.ended: list[str] = []
        self.sessions: dict[str, _OpenItem] = {}
        self.messages: dict[int, StoredMessage] = {}
        self._last_message = 0

    def record_transition(self, step: Transition) -> None:
        simulate = self.runs if step.machine == "run" else self.sessions if step.machine == "session" else {}
        if step.subject in simulate:
            simulate[step.subject].step(step)

    def record_claim(self, run_id: str, *rest: object) -> None:
        if run_id not in self.runs:
            self.runs[run_id] = _OpenItem((run_id, *rest))
        elif self.runs[run_id].has_ended and self.runs[run_id].report is None:
            content = rest[-1]
            self.runs[run_id] = _OpenItem((*self.runs[run_id].start_arguments[:-1], content))
            self.ended.remove(run_id)

    def record_report(self, run_id: str, report: Report | None) -> None:
        if run_id in self.runs and not self.runs[run_id].has_ended:
            self.runs[run_id].report = report

    def record_usage(self, run_id: str, usage: bytes) -> None:
        if run_id in self.runs:
            self.runs[run_id].usage = usage

    def record_wait(self, run_id: str, wait: bytes | None) -> None:
        if run_id in self.runs:
            self.runs[run_id].wait = wait

    def record_workspace(self, run_id: str, state: bytes) -> None:
        if run_id in self.runs:
            self.runs[run_id].workspace = state

    def end_run(self, run_id: str) -> None:
        if run_id in self.runs and not self.runs[run_id].has_ended:
            self.runs[run_id].has_ended = True
            self.ended.append(run_id)

    def record_session_start(self, session_id: str, *rest: object) -> None:
        self.sessions.pop(session_id, None)
        self.sessions[session_id] = _OpenItem((session_id, *rest))

    def record_session_end(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)

    def store_message(self, session_id: str, content: bytes) -> None:
        self._last_message += 1
        self.messages[self._last_message] = StoredMessage(self._last_message, session_id, content)

    def delete_message(self, message_id: int) -> None:
        self.messages.pop(message_id, None)


def recovered(calls: Sequence[JournalCall]) -> Recovered:
    """What a journal with these notes hands to the next process."""
    replay = _replayed(calls)
    return Recovered(
        runs=tuple(
            _open_run(run, replay.position_of(run_id)) for run_id, run in replay.runs.items() if not run.has_ended
        ),
        sessions=tuple(_open_session(session) for session in replay.sessions.values()),
        messages=tuple(replay.messages.values()),
        ended=tuple(
            EndedRun(run_id, report) for run_id in replay.ended if (report := replay.runs[run_id].report) is not None
        ),
    )


def _replayed(calls: Sequence[JournalCall]) -> _Replay:
    replay = _Replay()
    for call in calls:
        replay.at = call.at
        getattr(replay, "end_run" if call.method == "record_run_end" else call.method)(*call.arguments)
    return replay


def _open_run(run: _OpenItem, workflow: WorkflowPosition | None) -> OpenRun:
    run_id, session_id, _, runner_id, content = run.start_arguments
    return OpenRun(
        run=content,
        run_id=run_id,
        session_id=session_id,
        runner_id=runner_id,
        state=run.state,
        outcome=run.outcome,
        provisional=run.provisional,
        failure=run.failure or "",
        report=run.report,
        interruptions=run.interruptions,
        usage=run.usage,
        wait=run.wait,
        workspace=run.workspace,
        workflow=workflow,
    )


def _open_session(session: _OpenItem) -> OpenSession:
    session_id, runner_id, content = session.start_arguments
    return OpenSession(
        session_id=session_id, run=content, runner_id=runner_id, state=session.state, outcome=session.outcome
    )
