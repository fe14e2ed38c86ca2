"""Resumes what an earlier process of this runner left: its processes, messages, runs and sessions."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from loguru import logger

from fsm_runner.config.paths import find
from fsm_runner.errors import UsageError
from fsm_runner.executors.interface import Assignment
from fsm_runner.journal.records import RUN, SESSION, OpenSession, Recovered
from fsm_runner.machine.engine import Machine
from fsm_runner.protocol import wire
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.runtime.actors.actor import Position
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.util.threads import in_thread

Sweep = Callable[[], int]
"""Kills the processes that an earlier process of the runner left, and returns their number; blocks."""


def check_states(recovered: Recovered, machines: Mapping[str, Machine], journal: Path | None) -> None:
    """Raise `UsageError` if a spec lacks a state in which the journal has an open run or session.

    Its state names may have changed since. An empty state is none: no transition was recorded.
    """
    subjects = [(RUN, run.run_id, run.state) for run in recovered.runs]
    subjects += [(SESSION, session.session_id, session.state) for session in recovered.sessions]
    missing: dict[tuple[str, str], str] = {}
    for machine, subject, state in subjects:
        if state and state not in machines[machine].spec.states:
            missing.setdefault((machine, state), subject)
    if missing:
        raise UsageError(
            "\n".join(
                f"{find(f'specs/{machine}.toml')} has no state {state!r}, in which the journal {journal} has {machine} "
                f"{subject}: restore the state until this work has ended, or use another --state-dir"
                for (machine, state), subject in missing.items()
            )
        )


class Recovery(msgspec.Struct, frozen=True):
    take_recovered: Callable[[], Recovered]
    outbox: Outbox
    runs: RunRegistry
    sessions: SessionRegistry
    sweep: Sweep

    async def carry_out(self) -> None:
        """Kill leftover processes, then resume runs and sessions: a run is reported only after its processes ended.

        Raises `FsmRunnerError` if a process cannot be killed.
        """
        await in_thread(self.sweep)
        recovered = self.take_recovered()
        self.outbox.restore(recovered.messages)
        self.runs.remember_ended(recovered.ended)
        for run in recovered.runs:
            self.runs.resume(run)
        held = {run.session_id for run in recovered.runs if run.workflow is not None and run.report is None}
        for session in recovered.sessions:
            if session.session_id in held:
                # The workflow continues the session, or its end is the end of the session.
                self.sessions.forget(session.session_id)
            else:
                self._resume(session)

    def _resume(self, session: OpenSession) -> None:
        try:
            run = msgspec.json.decode(session.run, type=wire.Run)
        except wire.DECODE_FAULTS as defect:
            logger.error("{}: its record in the journal cannot be decoded: {}", session.session_id, defect)
            return
        first = Assignment(run, run.project_dir or "", session.runner_id)
        position = Position(session.state, session.outcome)
        self.sessions.resume(first, position, self.runs.pending_reports(session.session_id))
