"""A journal in memory whose process can be killed at any moment; what had not reached the disk is then forgotten."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fsm_runner.journal.journal import JournalUnwritable
from fsm_runner.journal.records import EndedRun, OpenRun, OpenSession, Recovered, Report, StoredMessage, Transition


class Life:
    """One process. `point` is called wherever it may be killed; the `dies_at`th one kills it, None: none does."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.is_dead = False
        self.died = asyncio.Event()
        self._points_left = dies_at

    def point(self) -> None:
        if self._points_left is not None:
            self._points_left -= 1
            if self._points_left <= 0:
                self.is_dead = True
                self.died.set()

    async def go_on(self) -> None:
        """Return where the process lives. A dead one does nothing any more."""
        if self.is_dead:
            await asyncio.get_running_loop().create_future()


class Note(NamedTuple):
    """A call of one of the journal's methods that note something."""

    method: str
    arguments: tuple[Any, ...]


def nothing(*_: object) -> None:
    pass


class MortalJournal:
    """`Record` and `MessageStore` of one process. `past`: what the ones before it have left on the disk."""

    def __init__(
        self,
        past: Sequence[Note],
        life: Life,
        commit_s: float = 0.0,
        *,
        on_unwritable: Callable[[JournalUnwritable], None] = nothing,
        on_writable: Callable[[], None] = nothing,
    ) -> None:
        self.notes = list(past)
        self.recovered = recovered(past)
        self.on_unwritable = on_unwritable
        self.on_writable = on_writable
        self.unwritable: JournalUnwritable | None = None
        self.path = None
        self.earlier_processes = ("earlier",)
        """A process is written down when it opens the journal, so each but the first one knows of another."""
        self._life = life
        self._commit_s = commit_s
        self._on_disk = len(self.notes)
        self._last_message = sum(note.method == "store_message" for note in past)

    def left_on_disk(self, lost: int) -> list[Note]:
        """After a kill: all but the last `lost` notes; what was waited for is never lost."""
        return self.notes[: max(self._on_disk, len(self.notes) - lost)]

    def stick(self) -> None:
        """The disk is full."""
        self.unwritable = JournalUnwritable(None, "database or disk is full")
        self.on_unwritable(self.unwritable)

    def come_unstuck(self) -> None:
        self.unwritable = None
        self.on_writable()

    def record_transition(self, step: Transition) -> None:
        self._note("record_transition", step)

    def record_claim(self, run_id: str, session_id: str, agent: str | None, runner_id: str, run: bytes) -> None:
        self._note("record_claim", run_id, session_id, agent, runner_id, run)

    def record_report(self, run_id: str, report: Report) -> None:
        self._note("record_report", run_id, report)

    def record_usage(self, run_id: str, usage: bytes) -> None:
        """What a run has cost decides nothing."""

    def record_run_end(self, run_id: str) -> None:
        self._note("record_run_end", run_id)

    def record_session_start(self, session_id: str, runner_id: str, run: bytes) -> None:
        self._note("record_session_start", session_id, runner_id, run)

    def record_session_end(self, session_id: str) -> None:
        self._note("record_session_end", session_id)

    def store_message(self, session_id: str, content: bytes) -> int:
        self._last_message += 1
        self._note("store_message", session_id, content)
        return self._last_message

    def delete_message(self, message_id: int) -> None:
        self._note("delete_message", message_id)

    async def message(self, message_id: int) -> bytes:
        await self._life.go_on()
        return next(each.content or b"" for each in recovered(self.notes).messages if each.id == message_id)

    async def has_run(self, run_id: str) -> bool:
        await self._life.go_on()
        return any(note.method == "record_claim" and note.arguments[0] == run_id for note in self.notes)

    async def flush(self) -> None:
        await self._life.go_on()
        if self.unwritable is not None:
            raise self.unwritable
        noted = len(self.notes)
        await asyncio.sleep(self._commit_s)
        await self._life.go_on()
        if self.unwritable is not None:
            raise self.unwritable
        self._on_disk = max(self._on_disk, noted)

    def _note(self, method: str, *arguments: object) -> None:
        if not self._life.is_dead:
            self.notes.append(Note(method, arguments))
            self._life.point()


class _Open:
    """A run or a session, as the notes tell of it."""

    def __init__(self, begun: tuple[Any, ...]) -> None:
        self.begun = begun
        self.state = ""
        self.outcome: str | None = None
        self.provisional = False
        self.failure: str | None = None
        self.interruptions = 0
        self.report: Report | None = None
        self.has_ended = False

    def step(self, step: Transition) -> None:
        self.state, self.outcome, self.provisional = step.target, step.outcome, step.provisional
        if step.outcome == "failed" and self.failure is None:
            self.failure = step.reason
        self.interruptions += step.event == "interrupted"


class _Reading:
    """Goes through the notes once."""

    def __init__(self) -> None:
        self.runs: dict[str, _Open] = {}
        self.ended: list[str] = []
        self.sessions: dict[str, _Open] = {}
        self.messages: dict[int, StoredMessage] = {}
        self._last_message = 0

    def record_transition(self, step: Transition) -> None:
        lives = self.runs if step.machine == "run" else self.sessions if step.machine == "session" else {}
        if step.subject in lives:
            lives[step.subject].step(step)

    def record_claim(self, run_id: str, *rest: object) -> None:
        self.runs.setdefault(run_id, _Open((run_id, *rest)))

    def record_report(self, run_id: str, report: Report) -> None:
        if run_id in self.runs and not self.runs[run_id].has_ended:
            self.runs[run_id].report = report

    def end_run(self, run_id: str) -> None:
        if run_id in self.runs and not self.runs[run_id].has_ended:
            self.runs[run_id].has_ended = True
            self.ended.append(run_id)

    def record_session_start(self, session_id: str, *rest: object) -> None:
        self.sessions.pop(session_id, None)
        self.sessions[session_id] = _Open((session_id, *rest))

    def record_session_end(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)

    def store_message(self, session_id: str, content: bytes) -> None:
        self._last_message += 1
        self.messages[self._last_message] = StoredMessage(self._last_message, session_id, content)

    def delete_message(self, message_id: int) -> None:
        self.messages.pop(message_id, None)


def recovered(notes: Sequence[Note]) -> Recovered:
    """What a journal with these notes hands to the next process."""
    reading = _Reading()
    for note in notes:
        getattr(reading, "end_run" if note.method == "record_run_end" else note.method)(*note.arguments)
    return Recovered(
        runs=tuple(_open_run(run) for run in reading.runs.values() if not run.has_ended),
        sessions=tuple(_open_session(session) for session in reading.sessions.values()),
        messages=tuple(reading.messages.values()),
        ended=tuple(
            EndedRun(run_id, report) for run_id in reading.ended if (report := reading.runs[run_id].report) is not None
        ),
    )


def _open_run(run: _Open) -> OpenRun:
    run_id, session_id, _, runner_id, content = run.begun
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
    )


def _open_session(session: _Open) -> OpenSession:
    session_id, runner_id, content = session.begun
    return OpenSession(
        session_id=session_id, run=content, runner_id=runner_id, state=session.state, outcome=session.outcome
    )
