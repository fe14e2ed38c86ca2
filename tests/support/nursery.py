"""Real processes of `doomed_runner` that start quickly: forked from one that has the libraries loaded.

Nothing of `fsm_runner` is loaded there, so each child imports and initialises that by itself, as a new interpreter
does. A child is told apart from one by nothing but its parent.
"""

import asyncio
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

LIBRARIES = (
    "asyncio",
    "backoff",
    "concurrent.futures.thread",
    "dotenv",
    "httpcore",
    "httpx",
    "loguru",
    "msgspec",
    "psutil",
    "sniffio",
    "sqlite3",
    "transitions",
    "typer",
)

LIFE_LIMIT_S = 3 * PATIENCE_S
"""From the fork to the end, with all that it waits for."""


class Forked:
    """A child. `log` is what it says on stderr."""

    def __init__(self, log: Path) -> None:
        loop = asyncio.get_running_loop()
        self.log = log
        self.pid: asyncio.Future[int] = loop.create_future()
        self.code: asyncio.Future[int] = loop.create_future()
        """Negative: the number of the signal that has killed it."""

    async def ended(self) -> int:
        async with asyncio.timeout(LIFE_LIMIT_S):
            return await asyncio.shield(self.code)

    async def signal(self, number: signal.Signals) -> None:
        """Nothing where it has ended."""
        pid = await self.pid
        if not self.code.done():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Nursery:
    """An async context manager. What is left at its end is killed."""

    def __init__(self) -> None:
        self._forked: list[Forked] = []
        self._process: Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.nursery"), cwd=REPOSITORY, stdin=PIPE, stdout=PIPE
        )
        self._listening = asyncio.create_task(self._listen(self._process), name="nursery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None or self._process.stdin is None or self._listening is None:
            return
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    def fork(self, arguments: list[str], *, cwd: Path, env: dict[str, str], log: Path) -> Forked:
        """Of `doomed_runner.main`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._forked.append(Forked(log))
        order = {"arguments": arguments, "cwd": str(cwd), "env": env, "log": str(log)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return self._forked[-1]

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            forked = self._forked[told["number"]]
            (forked.pid if "pid" in told else forked.code).set_result(told.get("pid", told.get("code")))


class _Parent:
    """The process that forks: one order on each line of its stdin."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
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
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _take_orders(self) -> bool:
        """Whether there may be more."""
        read = os.read(0, 65_536)
        *orders, self._unread = (self._unread + read).split(b"\n")
        for order in orders:
            self._fork(json.loads(order))
        return bool(read)

    def _fork(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            _live(order)
        self._numbers[pid] = self._orders
        self._tell(number=self._orders, pid=pid)
        self._orders += 1

    def _reap(self) -> bool:
        with suppress(BlockingIOError):
            os.read(self._woken, 65_536)
        for pid, number in list(self._numbers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._numbers[pid]
                self._tell(number=number, code=os.waitstatus_to_exitcode(status))
        return True

    def _tell(self, **told: int) -> None:
        os.write(1, json.dumps(told).encode() + b"\n")


def _live(order: dict[str, Any]) -> None:
    """In the child, to its end."""
    from tests.support import doomed_runner

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
        doomed_runner.main(order["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - a child must not come back to what its parent does
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    _Parent().serve()
