"""One child process, from its start until nothing of it is left."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

import msgspec

from fsm_runner.process.capture import BoundedCapture
from fsm_runner.process.errors import ProcessStuck, SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch, has_exited, watch_exit
from fsm_runner.process.pipes import InputPipe, OutputPipe
from fsm_runner.process.spawn import spawn, spawn_failed

OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024
"""How much of stdout, and of stderr, is kept unless the caller says otherwise."""
OUTPUT_DRAIN_S = 1.0
"""How long output is still read after the exit: a process that left the group may hold the pipe for ever."""
TERM_GRACE_S = 5.0
KILL_GRACE_S = 5.0
LOST_STATUS_CODE = 255
"""The exit code of a child whose status the kernel threw away, because SIGCHLD is ignored in this process."""

Ending = Literal["shutdown", "SIGTERM", "SIGKILL"]
"""What it took to end a process; `shutdown` where it ended by itself."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    code: int
    """As a shell says it: 128 + the signal's number for a death by signal."""
    signal: str | None
    stdout: BoundedCapture
    stderr: BoundedCapture
    duration_s: float
    """From the start to the exit; reading the rest of its output is not counted."""


class Child:
    """A process that leads its own group, its output captured with bounds.

    When it exits, in this order: the exit is noticed and the zombie kept; what it left behind in its group is
    killed, which is safe since the zombie still holds the group's id; its output is read to the end, for
    `OUTPUT_DRAIN_S` at most; it is reaped. Make one with `start`.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", *, stdin: InputPipe | None, stdout: OutputPipe, stderr: OutputPipe
    ) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._started_at = time.monotonic()
        self._duration_s: float | None = None
        self._ending: Ending = "shutdown"
        self._watch: ExitWatch | None = None
        self._drain_limit: asyncio.TimerHandle | None = None
        self._stdout_ended = asyncio.Event()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[Exit] = self._loop.create_future()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        pipe_stdin: bool = False,
        stdout_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        stderr_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        on_stdout: Callable[[bytes], None] | None = None,
        watch: Callable[[int, Callable[[], None]], ExitWatch] = watch_exit,
    ) -> Self:
        """Starts `command` on the running loop. `env` is its whole environment; its stdin is empty unless piped.

        `on_stdout` is given all of stdout as it comes, and must not raise; the end of it is `stdout_ended`.
        Raises `SpawnFailed`.
        """
        with ExitStack() as undo:
            try:
                stdout = OutputPipe(stdout_limit_bytes, on_stdout)
                undo.callback(stdout.close)
                stderr = OutputPipe(stderr_limit_bytes)
                undo.callback(stderr.close)
                stdin = InputPipe() if pipe_stdin else None
                if stdin is not None:
                    undo.callback(stdin.close)
            except OSError as error:
                raise spawn_failed(error, command, env, cwd) from error
            process = spawn(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else stdin.child_end,
                stdout=stdout.child_end,
                stderr=stderr.child_end,
            )
            child = cls(process, stdin=stdin, stdout=stdout, stderr=stderr)
            child._supervise(watch)
            undo.pop_all()
        return child

    def _supervise(self, watch: Callable[[int, Callable[[], None]], ExitWatch]) -> None:
        try:
            self._watch = watch(self.pid, self._on_exit)
            self._stdout.start(self._on_output_end)
            self._stderr.start(self._on_output_end)
        except (OSError, RuntimeError) as error:  # no descriptor or thread left
            self.kill()
            self._close_pipes()
            self._reap()
            raise SpawnFailed(f"process {self.pid} was ended again, it cannot be supervised: {error}") from error
        if self._stdin is not None:
            self._stdin.close_child_end()

    @property
    def pid(self) -> int:
        """Its process id, which is its group's and its session's too."""
        return self._process.pid

    @property
    def stdin(self) -> InputPipe:
        """Only of a child that was started with `pipe_stdin`."""
        if self._stdin is None:
            raise ValueError("this child was started without a pipe to its stdin")
        return self._stdin

    async def stdout_ended(self) -> None:
        """Returns when nobody can write to stdout any more, the process itself included; that may be before its end."""
        await self._stdout_ended.wait()

    def forget_output(self) -> None:
        """What it has written so far will not be in its `Exit`."""
        self._stdout.forget()
        self._stderr.forget()

    async def wait(self) -> Exit:
        """Returns when nothing is left of the process. Any number of tasks may wait, and be cancelled."""
        return await asyncio.shield(self._gone)

    async def stop(self, term_grace_s: float = TERM_GRACE_S, kill_grace_s: float = KILL_GRACE_S) -> Ending:
        """Ends the whole group: SIGTERM, `term_grace_s`, SIGKILL. Returns what it took, to each of several callers.

        SIGTERM is sent once, by the first caller; SIGKILL by the one with the least patience.
        Raises `ProcessStuck` when the process is there `kill_grace_s` after SIGKILL; it stays supervised.
        """
        if self._ending == "shutdown" and not self._has_exited():
            self._ending = "SIGTERM"
            self._signal_group(signal.SIGTERM)
        if not await self._exits_within(term_grace_s):
            self.kill()
            if not await self._exits_within(kill_grace_s):
                raise ProcessStuck(f"process {self.pid} is still there {kill_grace_s:g} s after SIGKILL")
        await self.wait()
        return self._ending

    def kill(self) -> None:
        """Sends SIGKILL to the whole group at once; `wait` tells when it is gone."""
        if not self._has_exited():
            self._ending = "SIGKILL"
            self._signal_group(signal.SIGKILL)

    def close(self, kill_grace_s: float = KILL_GRACE_S) -> None:
        """Ends everything here and now, blocking: for a loop that shuts down while the child runs. May be repeated.

        Raises `ProcessStuck` when the process is there `kill_grace_s` after SIGKILL.
        """
        if self._process.returncode is not None:
            return
        self.kill()
        if self._watch is not None and not self._exited.done() and not self._watch.wait_blocking(kill_grace_s):
            self._close_pipes()
            self._watch.cancel()
            self._process.returncode = -signal.SIGKILL  # nobody will ever reap it; Popen need not warn of it
            raise ProcessStuck(f"process {self.pid} is still there {kill_grace_s:g} s after SIGKILL")
        self._note_exit()
        self._finish()

    async def _exits_within(self, limit_s: float) -> bool:
        await asyncio.wait({self._exited}, timeout=limit_s)
        return self._exited.done()

    def _has_exited(self) -> bool:
        return self._exited.done() or has_exited(self.pid)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody left in it, or (macOS: zombies only; setuid programs) nobody that may be signalled

    def _on_exit(self) -> None:
        self._note_exit()
        self._stdout.read_rest()
        self._stderr.read_rest()
        if self._stdout.is_open or self._stderr.is_open:
            self._drain_limit = self._loop.call_later(OUTPUT_DRAIN_S, self._finish)
        else:
            self._finish()

    def _note_exit(self) -> None:
        if self._duration_s is not None:
            return
        self._duration_s = time.monotonic() - self._started_at
        self._signal_group(signal.SIGKILL)
        if not self._loop.is_closed():
            self._exited.set_result(None)

    def _on_output_end(self) -> None:
        if not self._stdout.is_open:
            self._stdout_ended.set()
        if self._exited.done() and not self._stdout.is_open and not self._stderr.is_open:
            self._finish()

    def _finish(self) -> None:
        if self._process.returncode is not None:
            return
        self._close_pipes()
        self._stdout_ended.set()
        code, signal_name = self._reap()
        ended = Exit(
            code=code,
            signal=signal_name,
            stdout=self._stdout.capture,
            stderr=self._stderr.capture,
            duration_s=self._duration_s or 0.0,
        )
        if not self._loop.is_closed():
            self._gone.set_result(ended)

    def _close_pipes(self) -> None:
        if self._drain_limit is not None:
            self._drain_limit.cancel()
        if self._watch is not None:
            self._watch.cancel()
        for output in (self._stdout, self._stderr):
            output.read_rest()
            output.close()
        if self._stdin is not None:
            self._stdin.close()

    def _reap(self) -> tuple[int, str | None]:
        """The exit code and the signal's name. Tells `Popen` too, which would warn of a child it has not seen end."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            self._process.returncode = LOST_STATUS_CODE
            return LOST_STATUS_CODE, None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode >= 0:
            return self._process.returncode, None
        number = -self._process.returncode
        return 128 + number, _signal_name(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a realtime signal
        return f"signal {number}"
