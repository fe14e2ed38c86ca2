"""Starts processes of `runner_program` quickly: a server that has imported the program and its libraries forks them.

The server imports and calls nothing else: each child patches and initialises the program, as a new interpreter does.
"""

import asyncio
import gc
import importlib
import json
import os
import selectors
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.program import REPOSITORY
from tests.support.watch import PATIENCE_S

MODULES = (
    "fsm_runner.app.build",
    "fsm_runner.cli.program",
    "fsm_runner.cli.runner",
    "fsm_runner.gateway.server",
    "fsm_runner.process.leftovers.startup_cleanup",
    "anyio._backends._asyncio",
    "certifi",
    "encodings.idna",
    "httpcore",
    "pydantic.type_adapter",
    "typer",
    "uvicorn.protocols.http.h11_impl",
    "zoneinfo",
)
"""The program, and what it imports only when it needs it."""

LIFETIME_LIMIT_S = 3 * PATIENCE_S


class RunnerProcess:
    """A child of the fork server. `log` receives its stderr."""

    def __init__(self, log: Path) -> None:
        loop = asyncio.get_running_loop()
        self.log = log
        self.pid: asyncio.Future[int] = loop.create_future()
        self.code: asyncio.Future[int] = loop.create_future()
        """Negative if a signal has killed it: the number of the signal."""

    async def exit_code(self) -> int:
        async with asyncio.timeout(LIFETIME_LIMIT_S):
            return await asyncio.shield(self.code)

    async def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        pid = await self.pid
        if not self.code.done():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class ForkServer:
    """An async context manager that kills the remaining children at its end."""

    def __init__(self) -> None:
        self._forked: list[RunnerProcess] = []
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.crash.fork_server"), cwd=REPOSITORY, stdin=PIPE, stdout=PIPE
        )
        self._reader = asyncio.create_task(self._read_reports(self._process), name="fork server")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None or self._process.stdin is None or self._reader is None:
            return
        self._process.stdin.close()
        await self._process.wait()
        await self._reader

    def fork(self, arguments: list[str], *, cwd: Path, env: dict[str, str], log: Path) -> RunnerProcess:
        """Start a child that calls `runner_program.main` with these arguments."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._forked.append(RunnerProcess(log))
        order = {"arguments": arguments, "cwd": str(cwd), "env": env, "log": str(log)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return self._forked[-1]

    async def _read_reports(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            reported: dict[str, Any] = json.loads(line)
            forked = self._forked[reported["number"]]
            (forked.pid if "pid" in reported else forked.code).set_result(reported.get("pid", reported.get("code")))


class _ForkingProcess:
    """The server process. Each line of its stdin is an order in JSON."""

    def __init__(self) -> None:
        self._number_by_pid: dict[int, int] = {}
        self._orders = 0
        self._unread = b""
        self._woken, waker = os.pipe()
        for end in (self._woken, waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ, self._take_orders)
        selector.register(self._woken, selectors.EVENT_READ, self._reap)
        while all(key.data() for key, _ in selector.select()):
            pass
        for pid in self._number_by_pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _take_orders(self) -> bool:
        """Return False at the end of stdin."""
        read = os.read(0, 65_536)
        *orders, self._unread = (self._unread + read).split(b"\n")
        for order in orders:
            self._fork(json.loads(order))
        return bool(read)

    def _fork(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            _run_child(order)
        self._number_by_pid[pid] = self._orders
        self._report(number=self._orders, pid=pid)
        self._orders += 1

    def _reap(self) -> bool:
        with suppress(BlockingIOError):
            os.read(self._woken, 65_536)
        for pid, number in list(self._number_by_pid.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._number_by_pid[pid]
                self._report(number=number, code=os.waitstatus_to_exitcode(status))
        return True

    def _report(self, **reported: int) -> None:
        os.write(1, json.dumps(reported).encode() + b"\n")


def _run_child(order: dict[str, Any]) -> None:
    """Run in the child; it does not return."""
    from tests.support.crash import runner_program

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.closerange(3, 64)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for end, number in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(end, number)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    code: object = 1
    try:
        runner_program.main(order["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - a child must not return into the server's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    _ForkingProcess().serve()
