"""A further signal while an aborted runner kills its runs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fsm_runner.cli import run, runner
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.errors import EXIT_ABORTED
from tests.support.virtual_time import run_virtually


class Exited(Exception):
    """Stands for the end of the process."""


class AbortedRunner:
    """A runner that a signal has aborted, with runs that are still to be killed."""

    is_ending = True

    def __init__(self) -> None:
        self.signals_while_killing: list[Any] = []

    async def live(self) -> str:
        return "aborted"

    async def wait_for_registration(self) -> None:
        await asyncio.Event().wait()

    def post(self, event: str, payload: object = None) -> None: ...

    @asynccontextmanager
    async def assembled(self, *_: object, **__: object) -> AsyncIterator["AbortedRunner"]:
        yield self
        self.signals_while_killing = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]


@asynccontextmanager
async def service(*_: object, **__: object) -> AsyncIterator[Any]:
    yield SimpleNamespace(url="http://coordinator")


def exit_with(code: int) -> None:
    raise Exited(code)


async def test_it_does_not_interrupt_the_kill_of_a_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = AbortedRunner()
    monkeypatch.setattr(runner, "assembled_runner", aborted.assembled)
    monkeypatch.setattr(os, "_exit", exit_with)
    config: Any = SimpleNamespace(coordinator_url="http://coordinator")
    profile: Any = None
    with pytest.raises(Exited, match=str(EXIT_ABORTED)):
        await runner._serve(config, profile, Redactor())
    assert aborted.signals_while_killing
    assert signal.SIG_DFL not in aborted.signals_while_killing


async def test_it_does_not_interrupt_the_kill_of_fsm_runner_run(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted = AbortedRunner()
    monkeypatch.setattr(run, "assembled_runner", aborted.assembled)
    monkeypatch.setattr(run, "CoordinatorServer", service)
    monkeypatch.setattr(run, "CoordinatorApi", service)
    config: Any = SimpleNamespace(verbose=False)
    nothing: Any = None
    assert await run._run(config, nothing, nothing) == EXIT_ABORTED
    assert aborted.signals_while_killing
    assert signal.SIG_DFL not in aborted.signals_while_killing


def test_an_aborted_runner_exits_although_several_resources_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[int]:
        exits: asyncio.Queue[int] = asyncio.Queue()
        monkeypatch.setattr(os, "_exit", exits.put_nowait)
        stack = AsyncExitStack()
        for _ in range(2):
            stack.push_async_callback(asyncio.Event().wait)
        closing = asyncio.create_task(runner._exit_at_once(stack, EXIT_ABORTED))
        codes = [await exits.get()]
        closing.cancel()
        await asyncio.wait([closing])
        return codes

    assert run_virtually(main) == [EXIT_ABORTED]
