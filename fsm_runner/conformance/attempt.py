"""One case being tried in one lifecycle: the processes that it starts, and what is written to them."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fsm_runner.conformance.case import CaseFailed, Lifecycle
from fsm_runner.conformance.stage import Stage
from fsm_runner.conformance.trial import Trial
from fsm_runner.coordinator.wire import JsonObject, Run
from fsm_runner.executors.messages import SHUTDOWN_LINE, invocation_line
from fsm_runner.executors.port import Assignment
from fsm_runner.process.child import TERM_GRACE_S

RUNNER_ID = "conformance"


class FirstTurn:
    """The plain start of a lifecycle: carried out once by the case `start`, and judged by others too."""

    def __init__(self) -> None:
        self.trial: Trial | None = None


class Attempt:
    def __init__(self, stage: Stage, lifecycle: Lifecycle, first: FirstTurn) -> None:
        self.stage = stage
        self.lifecycle = lifecycle
        self.trials: list[Trial] = []
        self.grace_s = min(TERM_GRACE_S, stage.timeout_s / 2)
        """For what a runner gives 5 s (section 2, Stop)."""
        self._first = first

    @asynccontextmanager
    async def trial(
        self, run: Run | None = None, arguments: tuple[str, ...] = (), *, has_input: bool = True
    ) -> AsyncIterator[Trial]:
        """A process of a new session, or of this run's."""
        run = run or await self.stage.start_run()
        trial = Trial(self.stage, self.lifecycle, run, arguments, has_input=has_input)
        self.trials.append(trial)
        try:
            yield trial
        finally:
            await trial.aclose()

    @asynccontextmanager
    async def idle_trial(self) -> AsyncIterator[Trial]:
        """Of a persistent executor that has had its first turn."""
        async with self.trial() as trial:
            await trial.take_turn(self.line(trial.run))
            yield trial

    async def carry_out_first_turn(self) -> Trial:
        """Raises `CaseFailed` where the turn is not done. How a persistent executor ends afterwards is not asked."""
        async with self.trial() as trial:
            await trial.take_turn(self.line(trial.run))
            if self.lifecycle == "persistent":
                await self.shut_down(trial)
        self._first.trial = trial
        return trial

    async def shut_down(self, trial: Trial) -> None:
        """After this it has done all that was written to it, or has had the time for it. How it ends is not asked."""
        await trial.write(SHUTDOWN_LINE)
        with contextlib.suppress(CaseFailed):
            await trial.ended_within(self.grace_s, "shutdown")

    async def first_turn(self) -> Trial:
        """The one plain start, whose process has ended meanwhile."""
        trial = self._first.trial
        if trial is None:
            return await self.carry_out_first_turn()
        self.trials.append(trial)
        return trial

    def fields(self, run: Run) -> JsonObject:
        """The invocation, to be changed."""
        decoded: JsonObject = msgspec.json.decode(self.line(run))
        return decoded

    def line(self, run: Run, **changes: Any) -> bytes:
        """The invocation as a runner writes it, with fields added or replaced."""
        assignment = Assignment(run, str(self.stage.project_dir), RUNNER_ID)
        line = invocation_line(assignment, self.stage.target.config)
        return line if not changes else json_line({**msgspec.json.decode(line), **changes})


def json_line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def said_error(stderr: str) -> bool:
    """Whether one of the lines is an error as the protocol wants it said."""
    return any(line.startswith("Error: ") and line[len("Error: ") :].strip() for line in stderr.splitlines())
