"""A test case, and the context in which it runs: one lifecycle and the processes that the case starts."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.conformance.executor_process import ExecutorProcess
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.executors.interface import Assignment
from fsm_runner.executors.messages import SHUTDOWN_LINE, invocation_line
from fsm_runner.process.child.child import TERM_GRACE_S
from fsm_runner.protocol.statuses import LIFECYCLES, Lifecycle
from fsm_runner.protocol.wire import JsonObject, Run

RUNNER_ID = "conformance"
REFUSED_CODE = 1
"""The exit code of an executor that refuses its input."""
PERSISTENT: tuple[Lifecycle, ...] = ("persistent",)
ONE_SHOT: tuple[Lifecycle, ...] = ("one_shot",)


class SharedProcesses:
    """The processes that several cases of a lifecycle examine."""

    def __init__(self) -> None:
        self.first_turn: ExecutorProcess | None = None
        """The plain start. The case `start` runs it once."""
        self.with_metadata: list[ExecutorProcess] = []
        """The processes, of any case, that have sent metadata for the runner."""


class CaseContext:
    def __init__(self, environment: ConformanceEnvironment, lifecycle: Lifecycle, shared: SharedProcesses) -> None:
        self.environment = environment
        self.lifecycle = lifecycle
        self.processes: list[ExecutorProcess] = []
        self.grace_s = min(TERM_GRACE_S, environment.timeout_s / 2)
        """The time limit for each step of a stop. A runner allows 5 s (section 2, Stop)."""
        self.shared = shared

    @asynccontextmanager
    async def process(
        self, run: Run | None = None, arguments: tuple[str, ...] = (), *, has_input: bool = True
    ) -> AsyncIterator[ExecutorProcess]:
        """Start a process for the run, by default for a run of a new session."""
        run = run or await self.environment.start_run()
        process = ExecutorProcess(self.environment, self.lifecycle, run, arguments, has_input=has_input)
        self.processes.append(process)
        try:
            yield process
        finally:
            await process.aclose()
            if process.record.runner_metadata():
                self.shared.with_metadata.append(process)

    @asynccontextmanager
    async def idle_process(self) -> AsyncIterator[ExecutorProcess]:
        """Start a persistent executor and complete its first turn."""
        async with self.process() as process:
            await process.run_turn(self.line(process.run))
            yield process

    async def run_first_turn(self) -> ExecutorProcess:
        """Run the plain start. Raises `CaseFailed` if the turn fails; ignores how a persistent executor then exits."""
        async with self.process() as process:
            await process.run_turn(self.line(process.run))
            if self.lifecycle == "persistent":
                await self.shut_down(process)
        self.shared.first_turn = process
        return process

    async def shut_down(self, process: ExecutorProcess) -> None:
        """Request the shutdown and wait for the exit, so that all input has been handled. Ignores the exit code."""
        await process.write(SHUTDOWN_LINE)
        with contextlib.suppress(CaseFailed):
            await process.ended_within(self.grace_s, "shutdown")

    async def first_turn(self) -> ExecutorProcess:
        """Return the process of the plain start, which has exited."""
        process = self.shared.first_turn
        if process is None:
            return await self.run_first_turn()
        self.processes.append(process)
        return process

    def fields(self, run: Run) -> JsonObject:
        """Return the invocation as a dict that the caller may change."""
        decoded: JsonObject = msgspec.json.decode(self.line(run))
        return decoded

    def line(self, run: Run, **changes: Any) -> bytes:
        """Return the invocation as a runner writes it, with the given fields added or replaced."""
        assignment = Assignment(run, str(self.environment.project_dir), RUNNER_ID)
        line = invocation_line(assignment, self.environment.target.config)
        return line if not changes else json_line({**msgspec.json.decode(line), **changes})


Check = Callable[[CaseContext], Awaitable[str | None]]
"""Raises `CaseFailed`. May return a remark on how the executor meets the requirement."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement of the protocol."""

    name: str
    asks: str
    """The requirement, in one sentence."""
    check: Check
    lifecycles: tuple[Lifecycle, ...] = LIFECYCLES
    needs_start: bool = False
    """Skip the case if the executor fails a plain start."""
    needs_limit: bool = False
    """Skip the case without parameters with which the executor reports a limit."""


def case(
    name: str,
    asks: str,
    *,
    lifecycles: tuple[Lifecycle, ...] = LIFECYCLES,
    needs_start: bool = False,
    needs_limit: bool = False,
) -> Callable[[Check], Case]:
    """Turn the decorated check into a case."""
    return lambda check: Case(
        name=name, asks=asks, check=check, lifecycles=lifecycles, needs_start=needs_start, needs_limit=needs_limit
    )


def json_line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def has_error_line(stderr: str) -> bool:
    """Return whether a line has the form `Error: …` that the protocol requires."""
    return any(line.startswith("Error: ") and line[len("Error: ") :].strip() for line in stderr.splitlines())
