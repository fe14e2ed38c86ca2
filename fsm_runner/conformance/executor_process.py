"""One process of an executor, under observation."""

import asyncio

from fsm_runner.conformance.case import CaseFailed
from fsm_runner.conformance.environment import ConformanceEnvironment
from fsm_runner.conformance.exchange import Listener
from fsm_runner.conformance.leftovers import LeftoverWatch
from fsm_runner.conformance.record import Record
from fsm_runner.executors.launcher import protocol_variables
from fsm_runner.process.child.child import OUTPUT_DRAIN_S, Child, Exit
from fsm_runner.process.errors import InputClosed
from fsm_runner.protocol.statuses import Lifecycle
from fsm_runner.protocol.wire import Run
from fsm_runner.reporting.session_reporter import SessionReporter

HELD_OUTPUT_S = OUTPUT_DRAIN_S * 0.9
"""Output that is read for so long after the exit was given up, not closed."""


class ExecutorProcess:
    """Its process is started by the constructor; `aclose` leaves nothing of it."""

    def __init__(
        self,
        environment: ConformanceEnvironment,
        lifecycle: Lifecycle,
        run: Run,
        arguments: tuple[str, ...] = (),
        *,
        has_input: bool = True,
    ) -> None:
        """`has_input`: stdin is a pipe to write to, not empty. Raises `SpawnFailed`."""
        self.run = run
        self.record = Record()
        self.exit: Exit | None = None
        self.output_held = False
        """Something held stdout or stderr open when the process had ended."""
        self._lifecycle = lifecycle
        self._gateway = environment.gateway
        self._turns_taken = 1
        self._leftovers = LeftoverWatch(run.session_id)
        self._listener = Listener(self.record.add_request, self.record.add_answer)
        channel = SessionReporter(run.session_id, environment.channels, self._has_turn)
        self._door = environment.gateway.open_recorded(run.session_id, channel, self._listener)
        command = (*environment.target.program.command, *arguments)
        self.record.transcript.add("started", " ".join(command))
        try:
            # As `Launcher.launch` does it, with an exit watch that looks before anything is killed.
            self._child = Child.start(
                command,
                env={**environment.target.program.environment, **protocol_variables(run.session_id, self._door)},
                cwd=environment.project_dir,
                pipe_stdin=has_input,
                on_stdout=self.record.add_stdout,
                watch=self._leftovers.watch,
            )
        except BaseException:
            environment.gateway.close_recorded(self._door)
            raise
        self._ending = asyncio.create_task(self._note_end(), name=f"end of process {self._child.pid}")

    @property
    def stdout(self) -> str:
        """All of it, once the process has ended."""
        return "" if self.exit is None else self.exit.stdout.text()

    @property
    def stderr(self) -> str:
        return "" if self.exit is None else self.exit.stderr.text()

    @property
    def recovered(self) -> list[str]:
        """What was still there when the process had ended, before it was killed."""
        return [str(each) for each in self._leftovers.found]

    @property
    def how_it_ended(self) -> str:
        if self.exit is None:
            return "not at all"
        return f"by {self.exit.signal}" if self.exit.signal is not None else f"with exit code {self.exit.code}"

    async def write(self, data: bytes) -> None:
        """To its stdin. A process that does not read it is judged by what else it does."""
        text = data.decode(errors="replace").rstrip("\n")
        self.record.transcript.add("stdin", f"{text} ({len(data):,} bytes)")
        self.record.waiting_for = "the process to read its stdin"
        try:
            await self._child.stdin.write(data)
        except InputClosed:
            self.record.transcript.add("stdin", "was not read to its end")
        self.record.waiting_for = ""

    def close_input(self) -> None:
        self.record.transcript.add("stdin", "is closed")
        self._child.stdin.close()

    async def take_turn(self, line: bytes) -> None:
        """Hand over a first or further turn and return when it is done: one-shot, at the end of the process.

        Raises `CaseFailed` where it is not done.
        """
        self._turns_taken = len(self.record.turns_completed) + 1
        await self.write(line)
        if self._lifecycle == "persistent":
            await self._turn_completed()
            return
        self.close_input()
        if (await self.ended()).code != 0:
            raise CaseFailed(f"it ended {self.how_it_ended}, where success is exit code 0")

    async def ended(self) -> Exit:
        await self.record.until(lambda: self.exit is not None, "the end of the process")
        return await self._child.wait()

    async def ended_within(self, limit_s: float, of: str) -> Exit:
        """Raises `CaseFailed` where it does not end in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.ended()
        except TimeoutError:
            raise CaseFailed(f"it had not ended {limit_s:g} s after {of}") from None

    async def terminated_within(self, limit_s: float) -> None:
        """SIGTERM to its whole group, as a runner sends it. Raises `CaseFailed` where it took SIGKILL to end it."""
        self.record.transcript.add("signal", "SIGTERM")
        if await self._child.stop(term_grace_s=limit_s) == "SIGKILL":
            raise CaseFailed(f"it had not ended {limit_s:g} s after SIGTERM, so it was killed")

    def hold_requests(self) -> None:
        """From now on its requests get no answer, until the end of the trial."""
        self._listener.gate.clear()

    async def aclose(self) -> None:
        """Kill what is left. Raises `ProcessStuck`."""
        if self.exit is None:
            self.record.transcript.add("killed", "since the case is over")
        try:
            await self._child.stop(term_grace_s=0)
            await asyncio.wait([self._ending])
        finally:
            self._ending.cancel()
            self._leftovers.kill()
            self._gateway.close_recorded(self._door)
            self._listener.gate.set()

    def _has_turn(self) -> bool:
        return len(self.record.turns_completed) < self._turns_taken

    async def _turn_completed(self) -> None:
        record, wanted = self.record, self._turns_taken
        await record.until(
            lambda: len(record.turns_completed) >= wanted or self.exit is not None, "a turn_complete line on stdout"
        )
        if len(record.turns_completed) < wanted:
            raise CaseFailed(f"it ended {self.how_it_ended} before it wrote turn_complete")

    async def _note_end(self) -> None:
        ended = await self._child.wait()
        told_at = self._leftovers.told_at
        self.output_held = told_at is not None and asyncio.get_running_loop().time() - told_at > HELD_OUTPUT_S
        self.exit = ended
        transcript = self.record.transcript
        if stderr := self.stderr:
            transcript.add("stderr", stderr)
        transcript.add("ended", self.how_it_ended)
        for leftover in self.recovered:
            transcript.add("left", leftover)
        self.record.changed()
