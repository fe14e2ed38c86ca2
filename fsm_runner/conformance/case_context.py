"""One case being tried in one lifecycle: the processes that it starts, and what is written to them."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fsm_runner.conformance.case import CaseFailed
from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.executors.interface import Assignment
from fsm_runner.executors.messages import SHUTDOWN_LINE, invocation_line
from fsm_runner.process.child.child import TERM_GRACE_S
from fsm_runner.protocol.statuses import Lifecycle
from fsm_runner.protocol.wire import JsonObject, Run

RUNNER_ID = "conformance"


class FirstTurn:
    """The plain start of a lifecycle: carried out once by the case `start`, and judged by others too."""

    def __init__(self) -> None:
        self.process: ExecutorProcess | None = None


class CaseContext:
    def __init__(self, environment: ConformanceEnvironment, lifecycle: Lifecycle, first: FirstTurn) -> None:
        self.environment = environment
        self.lifecycle = lifecycle
        self.trials: list[ExecutorProcess] = []
        self.grace_s = min(TERM_GRACE_S, environment.timeout_s / 2)
        """For what a runner gives 5 s (section 2, Stop)."""
        self._first = first

    @asynccontextmanager
    async def process(
        self, run: Run | None = None, arguments: tuple[str, ...] = (), *, has_input: bool = True
    ) -> AsyncIterator[ExecutorProcess]:
        """A process of a new session, or of this run's."""
        run = run or await self.environment.start_run()
        process = ExecutorProcess(self.environment, self.lifecycle, run, arguments, has_input=has_input)
        self.trials.append(process)
        try:
            yield process
        finally:
            await process.aclose()

    @asynccontextmanager
    async def idle_trial(self) -> AsyncIterator[ExecutorProcess]:
        """Of a persistent executor that has had its first turn."""
        async with self.process() as process:
            await process.take_turn(self.line(process.run))
            yield process

    async def carry_out_first_turn(self) -> ExecutorProcess:
        """Raises `CaseFailed` where the turn is not done. How a persistent executor ends afterwards is not asked."""
        async with self.process() as process:
            await process.take_turn(self.line(process.run))
            if self.lifecycle == "persistent":
                await self.shut_down(process)
        self._first.process = process
        return process

    async def shut_down(self, process: ExecutorProcess) -> None:
        """After this it has done all that was written to it, or has had the time for it. How it ends is not asked."""
        await process.write(SHUTDOWN_LINE)
        with contextlib.suppress(CaseFailed):
            await process.ended_within(self.grace_s, "shutdown")

    async def first_turn(self) -> ExecutorProcess:
        """The one plain start, whose process has ended meanwhile."""
        process = self._first.process
        if process is None:
            return await self.carry_out_first_turn()
        self.trials.append(process)
        return process

    def fields(self, run: Run) -> JsonObject:
        """The invocation, to be changed."""
        decoded: JsonObject = msgspec.json.decode(self.line(run))
        return decoded

    def line(self, run: Run, **changes: Any) -> bytes:
        """The invocation as a runner writes it, with fields added or replaced."""
        assignment = Assignment(run, str(self.environment.project_dir), RUNNER_ID)
        line = invocation_line(assignment, self.environment.target.config)
        return line if not changes else json_line({**msgspec.json.decode(line), **changes})


def json_line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def said_error(stderr: str) -> bool:
    """Whether one of the lines is an error as the protocol wants it said."""
    return any(line.startswith("Error: ") and line[len("Error: ") :].strip() for line in stderr.splitlines())
