"""One child process, from its start until nothing of it is left."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Self

import msgspec

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.pipes import ChildOutput, InputPipe
from fsm_runner.process.child.spawn import spawn, spawn_failed
from fsm_runner.process.errors import ProcessStuck, SpawnFailed
from fsm_runner.process.exit_watch import ExitWatch, has_exited, watch_exit
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy, lower_priority
from fsm_runner.process.limits.limiter import Limiter
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.reaping import reap
from fsm_runner.process.tree.descendant_killer import DescendantKiller
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.process.tree.usage import TreeUsage
from fsm_runner.process.user import give_pipes
from fsm_runner.protocol.statuses import StopSignal

OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024
"""The default for how much of stdout, and of stderr, is kept."""
OUTPUT_DRAIN_S = 1.0
"""How long output is still read after the exit: a process that left the group may hold the pipe forever."""
TERM_GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""
KILL_GRACE_S = 5.0
"""From SIGKILL until the process counts as stuck."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    code: int
    """As in a shell: 128 + N if signal N killed it."""
    signal: str | None
    stdout: BoundedCapture
    stderr: BoundedCapture
    exceeded: str | None = None
    """The message about the limit that it exceeded, if any."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.exceeded is None


class Child:
    """A process that leads its own group. Its output is captured with bounds. Make one with `start`.

    After its exit, in this order: the rest of its group is killed, while its zombie still holds the group's id; its
    descendants outside the group are killed if this program is their subreaper; its output is read for at most
    `OUTPUT_DRAIN_S`; it is reaped.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        descendants: DescendantKiller,
        *,
        stdin: InputPipe | None,
        output: ChildOutput,
        limits: ResourceLimits,
    ) -> None:
        self._process = process
        self._descendants = descendants
        self._loop = asyncio.get_running_loop()
        self._stdin = stdin
        self.output = output
        self._limits = limits
        usage = TreeUsage(descendants.processes, lambda: descendants.tree.reaped_cpu_s)
        self._limiter = Limiter(limits, usage, TERM_GRACE_S)
        self._signal_sent: StopSignal = "shutdown"
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
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
        on_stdout: Callable[[bytes], None] | None = None,
        launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY,
        label: str = "",
        watch: Callable[[int, Callable[[], None]], ExitWatch] = watch_exit,
    ) -> Self:
        """Start `command` on the running loop. Its stdin is empty unless `pipe_stdin`.

        `env`: its environment, to which only the tag of its process tree is added. `on_stdout` gets all chunks of
        stdout and must not raise. `label`: the run or session, for logs. Raises `SpawnFailed`.
        """
        with ExitStack() as undo:
            try:
                output = undo.enter_context(closing(ChildOutput(output_limit_bytes, on_stdout)))
                stdin = undo.enter_context(closing(InputPipe())) if pipe_stdin else None
            except OSError as error:
                raise spawn_failed(error, command, env, cwd) from error
            descendants = undo.enter_context(closing(DescendantKiller(env.get(RUNNER_TAG_VARIABLE), label)))
            stdout, stderr = output.child_ends
            if launch_policy.user is not None:
                give_pipes(launch_policy.user, [stdout, stderr] + ([stdin.child_end] if stdin else []))
            process = spawn(
                command,
                env=descendants.tree.tagged(env) if SUBREAPER.enabled else env,
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else stdin.child_end,
                stdout=stdout,
                stderr=stderr,
                rlimit_tag=descendants.tree.rlimit_tag,
                user=launch_policy.user,
                exec_prefix=launch_policy.exec_prefix,
            )
            lower_priority(process.pid)
            SUBREAPER.started(descendants.tree, process.pid)
            child = cls(process, descendants, stdin=stdin, output=output, limits=launch_policy.limits)
            child._supervise(watch)
            undo.pop_all()
        return child

    def _supervise(self, watch: Callable[[int, Callable[[], None]], ExitWatch]) -> None:
        try:
            self._watch = watch(self.pid, self._on_exit)
            self.output.start(self._finish_if_gone, self._note_output)
        except (OSError, RuntimeError) as error:  # no descriptor or thread left
            self.kill()
            self._close_pipes()
            reap(self._process)
            self._descendants.kill_blocking()
            raise SpawnFailed(f"{self} was killed because it cannot be supervised: {error}") from error
        if self._stdin is not None:
            self._stdin.close_child_end()
        self._limiter.start(self)

    def __str__(self) -> str:
        return str(self._descendants.tree)

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its group and its session."""
        return self._process.pid

    @property
    def stdin(self) -> InputPipe:
        """Only for a child that was started with `pipe_stdin`."""
        if self._stdin is None:
            raise ValueError("this child was started without a pipe to its stdin")
        return self._stdin

    @property
    def exceeded(self) -> str | None:
        """The message about the limit that it exceeded; then it is being ended, or has ended."""
        return self._limiter.exceeded

    async def cpu_s(self) -> float:
        """Return the CPU time of its processes so far, also of ended ones. Raises OSError if it cannot be measured.

        On macOS, processes that have ended and processes whose parents have ended do not count.
        """
        return await self._limiter.cpu_s()

    async def wait(self) -> Exit:
        """Return when nothing is left of the process. Any number of tasks may wait and be cancelled."""
        return await asyncio.shield(self._gone)

    async def stop(self, term_grace_s: float = TERM_GRACE_S, kill_grace_s: float = KILL_GRACE_S) -> StopSignal:
        """End the whole group with SIGTERM, then SIGKILL after `term_grace_s`. Return the last signal that was sent.

        The first of several callers sends SIGTERM, and the shortest `term_grace_s` counts. Descendants outside the
        group get only SIGKILL, at the exit. Raises `ProcessStuck` if that takes longer than `kill_grace_s`; the process
        stays supervised.
        """
        self.terminate()
        if not await self.exits_within(term_grace_s):
            self.kill()
            if not await self.exits_within(kill_grace_s):
                raise self._stuck(kill_grace_s)
        await self.wait()
        return self._signal_sent

    def terminate(self) -> None:
        """Send SIGTERM to the whole group, once."""
        if self._signal_sent == "shutdown" and not self._has_exited():
            self._signal_sent = "SIGTERM"
            self._descendants.track(stop=False)
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the whole group. `wait` returns when it is gone."""
        if self._has_exited():
            return
        self._signal_sent = "SIGKILL"
        if SUBREAPER.enabled:
            self._signal_group(signal.SIGSTOP)  # so that no process leaves the group while it is searched
            self._descendants.track(stop=True)
        self._signal_group(signal.SIGKILL)

    def close(self, kill_grace_s: float = KILL_GRACE_S) -> None:
        """Kill everything before returning, for a loop that shuts down while the child runs. May be repeated.

        Raises `ProcessStuck` if the process remains for `kill_grace_s` after SIGKILL.
        """
        if self._process.returncode is not None:
            return
        self.kill()
        if self._watch is not None and not self._exited.done() and not self._watch.wait_blocking(kill_grace_s):
            self._close_pipes()
            self._process.returncode = -signal.SIGKILL  # keeps Popen from warning that it still runs
            raise self._stuck(kill_grace_s)
        self._note_exit()
        self._descendants.kill_blocking()
        self._finish()

    async def exits_within(self, limit_s: float) -> bool:
        """Return True if the process exits within `limit_s`. Its descendants may still exist."""
        await asyncio.wait({self._exited}, timeout=limit_s)
        return self._exited.done()

    def _has_exited(self) -> bool:
        return self._exited.done() or has_exited(self.pid)

    def _stuck(self, waited_s: float) -> ProcessStuck:
        return ProcessStuck(f"{self} is still there {waited_s:g} s after SIGKILL")

    def _signal_group(self, number: signal.Signals) -> None:
        # The group may be empty, or (setuid programs; macOS: only zombies) may not be signalled.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _note_output(self) -> None:
        self._limiter.note_output(sum(capture.total_bytes for capture in self.output.captures))

    def _on_exit(self) -> None:
        self._note_exit()
        self.output.drain(OUTPUT_DRAIN_S)
        self._descendants.kill(self._loop, self._finish_if_gone)

    def _note_exit(self) -> None:
        if self._exited.done():
            return
        self._signal_group(signal.SIGKILL)
        self._limiter.note_exit()
        if not self._loop.is_closed():
            self._exited.set_result(None)

    def _finish_if_gone(self) -> None:
        if self._descendants.are_gone and not self.output.is_open:
            self._finish()

    def _finish(self) -> None:
        if self._process.returncode is not None:
            return
        self._close_pipes()
        reaped = reap(self._process)
        self._limiter.note_end(reaped.cpu_s, was_cpu_killed=reaped.signal == "SIGXCPU")
        self._limiter.close()
        self._descendants.close()
        stdout, stderr = self.output.captures
        ended = Exit(
            code=reaped.code,
            signal=reaped.signal,
            stdout=stdout,
            stderr=stderr,
            exceeded=self.exceeded or _open_files_text(self._limits, reaped.code, stdout, stderr),
        )
        if not self._loop.is_closed():
            self._gone.set_result(ended)

    def _close_pipes(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self.output.close()
        if self._stdin is not None:
            self._stdin.close()


def _open_files_text(limits: ResourceLimits, code: int, *outputs: BoundedCapture) -> str | None:
    """Return the message about the limit of open files if the child's output says that it failed because of it.

    The kernel reports this limit only to the process itself, so there is no better evidence. The text that is searched
    is the C library's message for EMFILE, which nearly every program uses.
    """
    if limits.open_files is None or code == 0:
        return None
    for output in outputs:
        if "too many open files" in (text := output.text()).lower():
            return f"limit of {limits.open_files:,} open files in a process reached: {text.strip()}"
    return None
