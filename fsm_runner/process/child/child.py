"""One child process, from its start until nothing of it is left."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.output import ChildOutput
from fsm_runner.process.child.pipes import InputPipe
from fsm_runner.process.child.spawn import spawn, spawn_failed
from fsm_runner.process.errors import ProcessStuck, SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch, has_exited, watch_exit
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.limits.limiter import Limiter, open_files_text
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.limits.priority import lower_priority
from fsm_runner.process.reaping import reap
from fsm_runner.process.tree.descendant_killer import DescendantKiller
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.process.tree.usage import TreeUsage
from fsm_runner.process.user import give_pipes
from fsm_runner.protocol.statuses import StopSignal

OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024
"""How much of stdout, and of stderr, is kept unless the caller says otherwise."""
OUTPUT_DRAIN_S = 1.0
"""How long output is still read after the exit: a process that left the group may hold the pipe for ever."""
TERM_GRACE_S = 5.0
KILL_GRACE_S = 5.0


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    code: int
    """As a shell says it: 128 + the signal's number for a death by signal."""
    signal: str | None
    stdout: BoundedCapture
    stderr: BoundedCapture
    duration_s: float
    """From the start to the exit; reading the rest of its output is not counted."""
    exceeded: str | None = None
    """The limit that it did not keep, for people; None where it kept all."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.exceeded is None


class Child:
    """A process that leads its own group, its output captured with bounds. Make one with `start`.

    After its exit, in this order: what it left behind in its group is killed, while its zombie still holds the group's
    id; what has left the group is killed where orphans are adopted; its output is read to the end, for `OUTPUT_DRAIN_S`
    at most; it is reaped.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        strays: DescendantKiller,
        *,
        stdin: InputPipe | None,
        output: ChildOutput,
        limits: ResourceLimits,
    ) -> None:
        self._process = process
        self._strays = strays
        self._loop = asyncio.get_running_loop()
        self._stdin = stdin
        self._output = output
        self._limits = limits
        self._limiter = Limiter(limits, TreeUsage(strays.living, lambda: strays.reaped_cpu_s))
        self._started_at = time.monotonic()
        self._duration_s: float | None = None
        self._ending: StopSignal = "shutdown"
        self._watch: ExitWatch | None = None
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
        launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY,
        watch: Callable[[int, Callable[[], None]], ExitWatch] = watch_exit,
    ) -> Self:
        """Starts `command` on the running loop, with an empty stdin unless `pipe_stdin`; ends it at its limits.

        `env`: its whole environment, except for the mark of its tree where orphans are adopted. `on_stdout` gets all of
        stdout as it comes, and must not raise; `stdout_ended` returns when that is over. Raises `SpawnFailed`.
        """
        with ExitStack() as undo:
            try:
                output = ChildOutput(stdout_limit_bytes, stderr_limit_bytes, on_stdout)
                undo.callback(output.close)
                stdin = InputPipe() if pipe_stdin else None
                if stdin is not None:
                    undo.callback(stdin.close)
            except OSError as error:
                raise spawn_failed(error, command, env, cwd) from error
            strays = DescendantKiller(SUBREAPER, env.get(RUNNER_TAG_VARIABLE))
            undo.callback(strays.forget)
            stdout, stderr = output.child_ends
            if launch_policy.user is not None:
                give_pipes(launch_policy.user, (stdout, stderr, *(() if stdin is None else (stdin.child_end,))))
            process = spawn(
                command,
                env=strays.marked(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else stdin.child_end,
                stdout=stdout,
                stderr=stderr,
                rlimit_tag=strays.rlimit_tag,
                user=launch_policy.user,
                exec_prefix=launch_policy.exec_prefix,
            )
            lower_priority(process.pid)
            strays.led_by(process.pid)
            child = cls(process, strays, stdin=stdin, output=output, limits=launch_policy.limits)
            child._supervise(watch)
            undo.pop_all()
        return child

    def _supervise(self, watch: Callable[[int, Callable[[], None]], ExitWatch]) -> None:
        try:
            self._watch = watch(self.pid, self._on_exit)
            counts_output = self._limits.output_bytes is not None
            self._output.start(self._finish_if_alone, self._note_output if counts_output else None)
        except (OSError, RuntimeError) as error:  # no descriptor or thread left
            self.kill()
            self._close_pipes()
            reap(self._process)
            self._strays.end_blocking()
            raise SpawnFailed(f"process {self.pid} was ended again, it cannot be supervised: {error}") from error
        if self._stdin is not None:
            self._stdin.close_child_end()
        self._limiter.start(self)

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

    @property
    def exceeded(self) -> str | None:
        """The limit that it did not keep; then it is ended, or has ended."""
        return self._limiter.exceeded

    async def stdout_ended(self) -> None:
        """Returns when nobody can write to stdout any more, the process itself included; that may be before its end."""
        await self._output.stdout_ended.wait()

    @property
    def output(self) -> tuple[BoundedCapture, BoundedCapture]:
        """Its stdout and stderr so far."""
        return self._output.captures

    def forget_output(self) -> None:
        """What it has written so far will not be in its `Exit`."""
        self._output.forget()

    async def wait(self) -> Exit:
        """Returns when nothing is left of the process. Any number of tasks may wait, and be cancelled."""
        return await asyncio.shield(self._gone)

    async def stop(self, term_grace_s: float = TERM_GRACE_S, kill_grace_s: float = KILL_GRACE_S) -> StopSignal:
        """Ends the whole group: SIGTERM, `term_grace_s`, SIGKILL. Returns what it took, to each of several callers.

        SIGTERM is sent once, by the first caller; SIGKILL after the shortest `term_grace_s`. What has left the group
        gets SIGKILL alone, at the exit. Raises `ProcessStuck` if that takes over `kill_grace_s`; it stays supervised.
        """
        self.terminate()
        if not await self.exits_within(term_grace_s):
            self.kill()
            if not await self.exits_within(kill_grace_s):
                raise ProcessStuck(f"process {self.pid} is still there {kill_grace_s:g} s after SIGKILL")
        await self.wait()
        return self._ending

    def terminate(self) -> None:
        """Sends SIGTERM to the whole group, once."""
        if self._ending == "shutdown" and not self._has_exited():
            self._ending = "SIGTERM"
            self._strays.remember(stop=False)
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the whole group at once; `wait` tells when it is gone."""
        if self._has_exited():
            return
        self._ending = "SIGKILL"
        if SUBREAPER.enabled:
            self._signal_group(signal.SIGSTOP)  # so that nobody leaves it while it is looked through
            self._strays.remember(stop=True)
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
        self._strays.end_blocking()
        self._finish()

    async def exits_within(self, limit_s: float) -> bool:
        """Whether the process has exited by then; what it has left behind may still be there."""
        await asyncio.wait({self._exited}, timeout=limit_s)
        return self._exited.done()

    def _has_exited(self) -> bool:
        return self._exited.done() or has_exited(self.pid)

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody left in it, or (macOS: zombies only; setuid programs) nobody that may be signalled

    def _note_output(self) -> None:
        self._limiter.note_output(self._output.total_bytes)

    def _on_exit(self) -> None:
        self._note_exit()
        self._output.drain(OUTPUT_DRAIN_S)
        self._strays.end(self._loop, self._finish_if_alone)

    def _note_exit(self) -> None:
        if self._duration_s is not None:
            return
        self._duration_s = time.monotonic() - self._started_at
        self._signal_group(signal.SIGKILL)
        self._limiter.note_exit()
        if not self._loop.is_closed():
            self._exited.set_result(None)

    def _finish_if_alone(self) -> None:
        if self._strays.are_gone and not self._output.is_open:
            self._finish()

    def _finish(self) -> None:
        if self._process.returncode is not None:
            return
        self._close_pipes()
        reaped = reap(self._process)
        self._limiter.note_end(reaped.cpu_s, was_cpu_killed=reaped.signal == "SIGXCPU")
        self._limiter.close()
        self._strays.forget()
        stdout, stderr = self._output.captures
        ended = Exit(
            code=reaped.code,
            signal=reaped.signal,
            stdout=stdout,
            stderr=stderr,
            duration_s=self._duration_s or 0.0,
            exceeded=self.exceeded or open_files_text(self._limits, reaped.code, stdout, stderr),
        )
        if not self._loop.is_closed():
            self._gone.set_result(ended)

    def _close_pipes(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._output.close()
        if self._stdin is not None:
            self._stdin.close()
