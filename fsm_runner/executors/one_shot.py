"""An executor that is started anew for each run. Contract: protocol.md, section 2."""

import asyncio
import contextlib

from fsm_runner.coordinator.wire import CompletedSession, Run, StopSignal
from fsm_runner.executors.endings import failure_text
from fsm_runner.executors.launcher import Launched, Launcher
from fsm_runner.executors.messages import invocation_line
from fsm_runner.executors.port import Assignment, ExecutionFailed, SessionChannel
from fsm_runner.process.errors import InputClosed


class OneShotExecutor:
    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def accept(self, run: Run) -> None:
        """Any run: what it asks for is between its author and the executor."""

    async def prepare(self, assignment: Assignment) -> None:
        """There is nothing to bring up to date."""

    async def start(self, assignment: Assignment, session: SessionChannel) -> "OneShotExecution":
        launched = self._launcher.launch(assignment, session)
        return OneShotExecution(launched, invocation_line(assignment, self._launcher.executor_config))


class OneShotExecution:
    """One process at work: the invocation goes in and stdin is closed, the exit code comes out."""

    def __init__(self, launched: Launched, invocation: bytes) -> None:
        self._child = launched.child
        self._door = launched.door
        self._feeding = asyncio.create_task(self._feed(invocation), name=f"stdin of process {self._child.pid}")

    async def wait(self) -> CompletedSession:
        ended = await self._child.wait()
        # What the executor may have left running must not speak for the session after its end.
        self._door.close()
        if ended.code != 0:
            raise ExecutionFailed(failure_text(ended))
        return "finished"

    async def stop(self) -> StopSignal:
        try:
            return await self._child.stop()
        finally:
            self._door.close()

    async def aclose(self) -> None:
        self._door.close()
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        await self._child.stop(term_grace_s=0)

    async def _feed(self, invocation: bytes) -> None:
        # An executor need not read what it does not want to know.
        with contextlib.suppress(InputClosed):
            await self._child.stdin.write(invocation)
        self._child.stdin.close()
