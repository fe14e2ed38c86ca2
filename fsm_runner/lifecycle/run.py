"""One run: lives the life of `specs/run.toml`."""

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import Protocol

import msgspec
from loguru import logger

from fsm_runner.coordinator import outbox, wire
from fsm_runner.coordinator.faults import Refused
from fsm_runner.coordinator.outbox import Answered, Delivery
from fsm_runner.executors.port import Assignment, Execution, Executor, RunRefused
from fsm_runner.lifecycle.actor import Actor
from fsm_runner.lifecycle.blueprint import RunnerValues, with_runner_values
from fsm_runner.lifecycle.channel import ChannelContext, OutboxChannel
from fsm_runner.machine.engine import Machine, Step

NO_SUCH_DIRECTORY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

ERROR_LIMIT_CHARS = 16_000
"""The longest error text that is reported; what a command wrote in full is in its result event."""


class Observer(Protocol):
    """Told each state of a run as it is entered, and whether it is a final one. Must not block."""

    def __call__(self, run: wire.Run, state: str, *, final: bool) -> None: ...


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of one runner share."""

    machine: Machine
    executor: Executor
    channels: ChannelContext
    project_dir: str
    """Where runs work that name no directory of their own."""
    runner_values: RunnerValues
    run_timeout_s: float | None
    observe: Observer


class RunActor(Actor):
    """From the claim to the acknowledged report."""

    def __init__(self, run: wire.Run, runner_id: str, context: RunContext) -> None:
        super().__init__(
            run.run_id,
            context.machine,
            {
                "accept": self._accept,
                "prepare_workspace": self._prepare_workspace,
                "execute": self._execute,
                "stop_execution": self._stop_execution,
                "report": self._report,
            },
            {"run_timeout_s": context.run_timeout_s},
        )
        self.wire_run = with_runner_values(run, context.runner_values)
        self._runner_id = runner_id
        self._context = context
        self._channel = OutboxChannel(run.session_id, context.channels, self._is_executing)
        self._reports: list[Answered] = []
        self._assignment = Assignment(self.wire_run, run.project_dir or context.project_dir, runner_id)
        self._execution: Execution | None = None
        self._session_status: wire.CompletedSession = "finished"
        self._signal: wire.StopSignal = "shutdown"
        self.failure = ""
        """Why the run failed; empty where it did not."""
        self.terminal_report: Delivery | None = None
        """How the run ended, as the coordinator was told; None before."""

    async def live(self) -> str:
        """Run to the end; the final state."""
        self._show_state()
        try:
            return await self.run()
        finally:
            self._context.channels.outbox.give_up(self.wire_run.session_id, self._reports)
            if self._execution is not None:
                await self._execution.aclose()

    def on_step(self, step: Step, payload: object) -> None:
        if self.model.outcome == "failed" and not self.failure:
            self.failure = str(payload) or type(payload).__name__
        if step.event == "stop_requested":
            logger.info("{}: stop ({})", self.name, payload or "requested")
        logger.debug("{}: {} → {} ({})", self.name, step.source, step.target, step.event)
        self._show_state()

    def _show_state(self) -> None:
        final = self._context.machine.is_final(self.model)
        self._context.observe(self.wire_run, self.state, final=final)

    async def _accept(self) -> None:
        self._context.executor.accept(self.wire_run)

    async def _prepare_workspace(self) -> None:
        await asyncio.to_thread(_check_workspace, Path(self._assignment.project_dir))
        await self._context.executor.prepare(self._assignment)

    async def _execute(self) -> None:
        # Not waited for: the executor need not lose the time of a round trip, and the outbox keeps the order.
        self._put(outbox.started(self.wire_run.run_id, self._runner_id))
        self._execution = await self._context.executor.start(self._assignment, self._channel)
        self._session_status = await self._execution.wait()

    async def _stop_execution(self) -> None:
        # A `started` that arrives after the stop request would put the run back to running.
        self._context.channels.outbox.withdraw(self.wire_run.session_id, self._reports)
        if self._execution is not None:
            self._signal = "SIGKILL"  # what it took at the least where the stop does not come to an end
            self._signal = await self._execution.stop()

    async def _report(self) -> None:
        self.terminal_report = self._report_of_outcome()
        answer = await self._put(self.terminal_report)
        if isinstance(answer, Refused):
            raise answer

    def _put(self, report: Delivery) -> Answered:
        answered = self._context.channels.outbox.put(self.wire_run.session_id, report)
        self._reports.append(answered)
        return answered

    def _is_executing(self) -> bool:
        return self.state == "executing"

    def _report_of_outcome(self) -> Delivery:
        run_id = self.wire_run.run_id
        match self.model.outcome:
            case "completed":
                return outbox.completed(run_id, self._runner_id, self._session_status)
            case "stopped":
                return outbox.stopped(run_id, self._runner_id, self._signal)
            case _:
                return outbox.failed(run_id, self._runner_id, _shortened(self.failure))


def _check_workspace(folder: Path) -> None:
    if not folder.is_absolute() or "\0" in str(folder):
        raise RunRefused(f"project directory {str(folder)!r}: not an absolute path")
    try:
        is_directory = stat.S_ISDIR(folder.stat().st_mode)
    except PermissionError:
        raise _permission_denied(folder) from None
    except OSError as fault:
        if fault.errno not in NO_SUCH_DIRECTORY:
            raise  # a network's file system may come back
        is_directory = False
    if not is_directory:
        raise RunRefused(f"project directory {folder}: there is no such directory on this runner")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise _permission_denied(folder)


def _permission_denied(folder: Path) -> RunRefused:
    return RunRefused(
        f"Permission denied on workspace {folder}: the runner (uid {os.getuid()}) may not read and enter it"
    )


def _shortened(error: str) -> str:
    if len(error) <= ERROR_LIMIT_CHARS:
        return error
    half = ERROR_LIMIT_CHARS // 2
    return f"{error[:half]}\n… {len(error) - 2 * half:,} characters left out …\n{error[-half:]}"
