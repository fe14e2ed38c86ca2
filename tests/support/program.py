"""`fsm-runner` as its users have it: a process with arguments, an environment and an exit code."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fsm_runner.config.paths import HOME_VARIABLE
from tests.support.watch import PATIENCE_S, Watch

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


class Program:
    """One that is running. What it says on stderr is read as it comes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._watch = Watch(lambda: "\n".join(self.lines))
        self.listening = asyncio.create_task(self._listen(), name="stderr of the program")

    async def said(self, text: str, count: int = 1) -> str:
        """The `count`th line on stderr that holds this text, once it is there."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        await self._watch.until(lambda: len(found()) >= count, f"{text!r} on stderr")
        return found()[count - 1]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode().rstrip("\n"))
            self._watch.changed()


def environment(home: Path | None, **variables: str) -> dict[str, str]:
    """Nothing of what a developer may have set for a runner of their own."""
    homes = {} if home is None else {HOME_VARIABLE: str(home)}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "XDG_STATE_HOME") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **homes, **variables}


@asynccontextmanager
async def program(cwd: Path, env: Mapping[str, str], *arguments: str, stdout: int = DEVNULL) -> AsyncIterator[Program]:
    """Started; killed at the end where it is still there."""
    command = [sys.executable, "-m", "fsm_runner", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdin=DEVNULL, stdout=stdout, stderr=PIPE
    )
    running = Program(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await running.listening


async def finish(
    cwd: Path,
    env: Mapping[str, str],
    *arguments: str,
    stdout: int = PIPE,
    stderr: int = PIPE,
    give_up_after_s: float = PATIENCE_S,
) -> Finished:
    """Run it to its end."""
    command = [sys.executable, "-m", "fsm_runner", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdin=DEVNULL, stdout=stdout, stderr=stderr
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), give_up_after_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, (out or b"").decode(), (err or b"").decode())
