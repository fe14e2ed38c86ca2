"""One observed process of the executor under test."""

import asyncio
from collections.abc import Callable

from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.conformance.gateway import Listener
from fsm_runner.conformance.leftovers import LeftoverWatch
from fsm_runner.conformance.record import Record
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.executors.environment import session_variables
from fsm_runner.process.child.child import OUTPUT_DRAIN_S, Child, Exit
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import Lifecycle
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_channel import SessionChannel

HELD_OUTPUT_S = OUTPUT_DRAIN_S * 0.9
"""If reading the output takes this long after the exit, the supervisor gave up: something held the output open."""


class ExecutorProcess:
    """The constructor starts the process. `aclose` kills everything that is left of it."""

    def __init__(
        self,
        environment: ConformanceEnvironment,
        lifecycle: Lifecycle,
        run: Run,
        arguments: tuple[str, ...] = (),
        *,
        has_input: bool = True,
    ) -> None:
        """`has_input`: stdin is a pipe, otherwise it is empty. Raises `SpawnFailed`."""
        self.run = run
        self.record = Record()
        self.exit: Exit | None = None
        self.output_held = False
        """Whether something held stdout or stderr open after the process had exited."""
        self._lifecycle = lifecycle
        self._gateway = environment.gateway
        self._turns_requested = 1
        self._listener = Listener(self.record.add_request, self.record.add_response)
        channel = SessionChannel(run.session_id, environment.reporting, self._has_turn)
        self._endpoint = environment.gateway.open_recorded(run.session_id, channel, self._listener)
        command = (*environment.target.program.command, *arguments)
        self.record.transcript.add("started", " ".join(command))
        try:
            # Like `Launcher.launch`, with an exit watch that looks for leftovers before the supervisor kills them.
            self._child = Child.start(
                command,
                env={**environment.target.program.environment, **session_variables(run.session_id, self._endpoint.url)},
                cwd=environment.project_dir,
                pipe_stdin=has_input,
                on_stdout=self.record.add_stdout,
                watch=self._watch_exit,
            )
        except BaseException:
            environment.gateway.close_recorded(self._endpoint)
            raise
        self._exit_task = asyncio.create_task(self._record_exit(), name=f"exit of process {self._child.pid}")

    @property
    def stdout(self) -> str:
        """The whole output, once the process has exited."""
        return "" if self.exit is None else self.exit.stdout.text()

    @property
    def stderr(self) -> str:
        return "" if self.exit is None else self.exit.stderr.text()

    @property
    def leftovers(self) -> list[str]:
        """The processes that were still running after the exit, before they were killed."""
        return [str(each) for each in self._leftover_watch.found]

    @property
    def how_it_ended(self) -> str:
        if self.exit is None:
            return "not at all"
        return f"by {self.exit.signal}" if self.exit.signal is not None else f"with exit code {self.exit.code}"

    async def write(self, data: bytes) -> None:
        """Write to the process's stdin. It is no failure by itself if the process does not read it."""
        text = data.decode(errors="replace").rstrip("\n")
        self.record.transcript.add("stdin", f"{text} ({len(data):,} bytes)")
        self.record.waiting_for = "the process to read its stdin"
        try:
            await self._child.stdin.write(data)
        except InputClosed:
            self.record.transcript.add("stdin", "was closed before all of it was read")
        self.record.waiting_for = ""

    def close_input(self) -> None:
        self.record.transcript.add("stdin", "closed")
        self._child.stdin.close()

    async def run_turn(self, line: bytes) -> None:
        """Write an invocation or a further turn, and wait until it is done; for one-shot, until the process exits.

        Raises `CaseFailed` if the turn fails.
        """
        self._turns_requested = len(self.record.turns_completed) + 1
        await self.write(line)
        if self._lifecycle == "persistent":
            await self._wait_turn_completed()
            return
        self.close_input()
        if (await self.ended()).code != 0:
            raise CaseFailed(f"it exited {self.how_it_ended}; expected exit code 0")

    async def ended(self) -> Exit:
        await self.record.until(lambda: self.exit is not None, "the process to exit")
        return await self._child.wait()

    async def ended_within(self, limit_s: float, after: str) -> Exit:
        """Wait for the exit. Raises `CaseFailed` if it takes longer than `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.ended()
        except TimeoutError:
            raise CaseFailed(f"it was still running {limit_s:g} s after {after}") from None

    async def terminated_within(self, limit_s: float) -> None:
        """Send SIGTERM to the process group, as a runner does. Raises `CaseFailed` if it takes SIGKILL to end it."""
        self.record.transcript.add("signal", "SIGTERM")
        if await self._child.stop(term_grace_s=limit_s) == "SIGKILL":
            raise CaseFailed(f"it was still running {limit_s:g} s after SIGTERM and had to be killed")

    def hold_requests(self) -> None:
        """Leave all further requests without a response until `aclose`."""
        self._listener.gate.clear()

    async def aclose(self) -> None:
        """Kill the process and its leftovers. Raises `ProcessStuck`."""
        if self.exit is None:
            self.record.transcript.add("killed", "the case is over")
        try:
            await self._child.stop(term_grace_s=0)
            await asyncio.wait([self._exit_task])
        finally:
            self._exit_task.cancel()
            self._leftover_watch.kill()
            self._gateway.close_recorded(self._endpoint)
            self._listener.gate.set()

    def _watch_exit(self, pid: int, on_exit: Callable[[], None]) -> LeftoverWatch:
        self._leftover_watch = LeftoverWatch(pid, self.run.session_id, on_exit)
        return self._leftover_watch

    def _has_turn(self) -> bool:
        return len(self.record.turns_completed) < self._turns_requested

    async def _wait_turn_completed(self) -> None:
        record, expected = self.record, self._turns_requested
        await record.until(
            lambda: len(record.turns_completed) >= expected or self.exit is not None, "a turn_complete line on stdout"
        )
        if len(record.turns_completed) < expected:
            raise CaseFailed(f"it exited {self.how_it_ended} before it wrote turn_complete")

    async def _record_exit(self) -> None:
        ended = await self._child.wait()
        notified_at = self._leftover_watch.notified_at
        self.output_held = notified_at is not None and asyncio.get_running_loop().time() - notified_at > HELD_OUTPUT_S
        self.exit = ended
        transcript = self.record.transcript
        if stderr := self.stderr:
            transcript.add("stderr", stderr)
        transcript.add("exited", self.how_it_ended)
        for leftover in self.leftovers:
            transcript.add("leftover", leftover)
        self.record.notify_changed()
