"""Takes up what an earlier process of this runner has left: its processes, its messages, its runs and sessions."""

from collections.abc import Callable, Iterable

import msgspec
from loguru import logger

from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.records import OpenRun, OpenSession, Recovered
from fsm_runner.protocol import wire
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.util.threads import in_thread

IN_A_TURN = frozenset({"executing", "stopping", "recovering"})
"""The states of a run in which its session's executor works for it, or did when the process ended."""

Sweep = Callable[[], int]
"""Kills what an earlier process has left running, and returns how many processes that were; blocks."""


class Recovery:
    def __init__(
        self,
        take_left_behind: Callable[[], Recovered],
        outbox: Outbox,
        runs: RunRegistry,
        sessions: SessionRegistry,
        sweep: Sweep,
    ) -> None:
        self._take_left_behind = take_left_behind
        self._outbox = outbox
        self._runs = runs
        self._sessions = sessions
        self._sweep = sweep

    async def carry_out(self) -> None:
        """Processes first: what a run started is gone before anything is said of it.

        Raises `FsmRunnerError` where a process does not end.
        """
        await in_thread(self._sweep)
        recovered = self._take_left_behind()
        self._outbox.restore(recovered.messages)
        self._runs.remember(recovered.ended)
        for run in recovered.runs:
            self._runs.resume(run)
        for session in recovered.sessions:
            self._take_up(session, recovered.runs)

    def _take_up(self, session: OpenSession, open_runs: Iterable[OpenRun]) -> None:
        try:
            run = msgspec.json.decode(session.run, type=wire.Run)
        except wire.DECODE_FAULTS as defect:
            logger.error("{}: what was written down of it cannot be read: {}", session.session_id, defect)
            return
        first = Assignment(run, run.project_dir or "", session.runner_id)
        actor = self._sessions.resume(first, Position(session.state, session.outcome))
        states = {run.state for run in open_runs if run.session_id == session.session_id}
        if session.state == "idle" or not states & IN_A_TURN:
            actor.had_its_turns(self._runs.unfinished_runs_of(session.session_id))
