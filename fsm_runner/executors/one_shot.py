"""An executor with one process for each run. Contract: protocol.md, section 2."""

import asyncio
from contextlib import ExitStack, suppress
from typing import NoReturn
from weakref import WeakValueDictionary

from loguru import logger

from fsm_runner.executors.exit_text import failure_text
from fsm_runner.executors.interface import Assignment, ExecutionFailed, SessionEndpoint
from fsm_runner.executors.messages import invocation_line
from fsm_runner.executors.program import Launcher
from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.util.tasks import wait_forever


class OneShotExecutor:
    """Starts a process for each run. The runs of one session are executed in order, because each continues the last."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """A lock for each session that has runs, which hold it or wait for it."""

    def accept(self, run: Run) -> None:
        """Accept every run."""

    def starts_process(self, run: Run) -> bool:
        return True

    def can_continue(self, session_id: str) -> bool:
        return True

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    async def end_session(self, session_id: str) -> None:
        """No process lives on after its run."""

    async def prepare(self, assignment: Assignment) -> None:
        """Nothing has to be fetched."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> "OneShotExecution":
        run = assignment.run
        turn = self._turns.setdefault(run.session_id, asyncio.Lock())
        if turn.locked():
            logger.info("{}: waiting for an earlier run of its session {}", run.run_id, run.session_id)
        await turn.acquire()
        with ExitStack() as resources:
            resources.callback(turn.release)
            child, endpoint = self._launcher.launch(assignment, session, run.run_id)
            invocation = invocation_line(assignment, self._launcher.executor_config)
            return OneShotExecution(child, endpoint, invocation, resources.pop_all())


class OneShotExecution:
    """One process, which gets the invocation on stdin and reports its success by its exit code."""

    def __init__(self, child: Child, endpoint: SessionEndpoint, invocation: bytes, resources: ExitStack) -> None:
        """Closing `resources`, when the process has ended, lets the next run of the session begin."""
        self._resources = resources
        self._child = child
        self._endpoint = endpoint
        self._feeding = asyncio.create_task(self._feed(invocation), name=f"stdin of process {self._child.pid}")

    @property
    def process(self) -> Child:
        return self._child

    async def wait(self) -> CompletedSession:
        ended = await self._child.wait()
        self._resources.close()
        # Processes that the executor left behind must not report for the session after its end.
        self._endpoint.close()
        if not ended.succeeded:
            raise ExecutionFailed(failure_text(ended))
        return "finished"

    async def stop(self) -> StopSignal:
        try:
            return await self._child.stop()
        finally:
            self._resources.close()
            self._endpoint.close()

    async def aclose(self) -> None:
        self._endpoint.close()
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        try:
            await self._child.stop(term_grace_s=0)
        finally:
            self._resources.close()

    async def _feed(self, invocation: bytes) -> None:
        # An executor need not read its invocation.
        with suppress(InputClosed):
            await self._child.stdin.write(invocation)
        self._child.stdin.close()
