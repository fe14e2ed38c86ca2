"""Descendants that do not end delay the end of their run for a limited time, and no other run."""

import os
import signal
from collections.abc import Iterator

import pytest
from loguru import logger

from fsm_runner.process.child.child import Child
from fsm_runner.process.tree import descendant_killer, procfs
from fsm_runner.process.tree.subreaper import SUBREAPER
from tests.support.children import exit_of, start_shell, subreaper_enabled
from tests.support.fifo import Fifo
from tests.support.processes import gone, is_there

pytestmark = pytest.mark.linux(reason="adoption of orphaned processes")


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    with subreaper_enabled(exclusive=False):
        yield


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(handler)


def start(signs: Fifo, go: Fifo, count: int = 1) -> Child:
    orphan = 'setsid sh -c \'echo $$ >"$0"; exec sleep 1000\' "$1" >&- 2>&- &\n'
    return start_shell(f'{orphan * count} read line <"$2"', str(signs.path), str(go.path))


async def end(pid: int) -> None:
    """The end of any child kills it once it can be killed."""
    SUBREAPER.given_up.clear()
    await exit_of(start_shell("exit"))
    assert not is_there(pid)


async def test_a_descendant_that_the_kernel_holds_is_waited_for_once_and_named(
    signs: Fifo, go: Fifo, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start(signs, go)
    pid = await signs.pid()
    with monkeypatch.context() as patch:
        patch.setattr(procfs, "send", lambda process, number: None)
        patch.setattr(descendant_killer, "STUCK_S", 0.1)
        go.write_line()
        assert (await exit_of(child)).code == 0
        assert warnings == [f"descendants of process {child.pid} still there 0.1 s after SIGKILL: {pid}"]
        patch.setattr(descendant_killer, "STUCK_S", 1000.0)
        await exit_of(start_shell("exit"))
    assert is_there(pid)
    await end(pid)


async def test_a_descendant_of_another_user_is_not_waited_for(
    signs: Fifo, go: Fifo, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: procfs.Process, number: int) -> None:
        raise PermissionError

    child = start(signs, go)
    pid = await signs.pid()
    with monkeypatch.context() as patch:
        patch.setattr(procfs, "send", refuse)
        patch.setattr(descendant_killer, "STUCK_S", 1000.0)
        go.write_line()
        assert (await exit_of(child)).code == 0
    assert warnings == [f"process {pid} outlives process {child.pid}, because it belongs to another user"]
    await end(pid)


async def test_all_are_stopped_before_the_first_is_killed(
    signs: Fifo, go: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at_kill: list[set[int]] = []
    stopped: set[int] = set()
    signal_through = signal.pidfd_send_signal
    handle_of: dict[int, int] = {}
    open_handle = os.pidfd_open

    def opened(pid: int, flags: int = 0) -> int:
        handle = open_handle(pid, flags)
        handle_of[handle] = pid
        return handle

    def note(handle: int, number: int) -> None:
        if number == signal.SIGSTOP:
            stopped.add(handle_of[handle])
        elif number == signal.SIGKILL:
            stopped_at_kill.append(set(stopped))
        signal_through(handle, number)

    child = start(signs, go, count=3)
    pids = {await signs.pid() for _ in range(3)}
    monkeypatch.setattr(os, "pidfd_open", opened)
    monkeypatch.setattr(signal, "pidfd_send_signal", note)
    go.write_line()
    await exit_of(child)
    assert pids <= stopped_at_kill[0]
    assert [pid for pid in pids if is_there(pid)] == []


async def test_a_lack_of_descriptors_delays_the_kill_until_some_are_free(
    signs: Fifo, go: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(24, "Too many open files")] * 3
    list_children = procfs.adopted_children

    def listed() -> list[int]:
        if failures:
            raise failures.pop()
        return list_children()

    child = start(signs, go)
    pid = await signs.pid()
    monkeypatch.setattr(procfs, "adopted_children", listed)
    go.write_line()
    await exit_of(child)
    assert not failures
    assert not is_there(pid)


async def test_stopped_descendants_are_killed_when_they_cannot_be_listed_any_more(
    signs: Fifo, go: Fifo, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[int]:
        raise OSError(5, "Input/output error")

    def send(process: procfs.Process, number: signal.Signals) -> None:
        monkeypatch.setattr(procfs, "adopted_children", fail)
        send_through(process, number)

    child = start(signs, go)
    pid = await signs.pid()
    send_through = procfs.send
    monkeypatch.setattr(procfs, "send", send)
    monkeypatch.setattr(descendant_killer, "STUCK_S", 0.1)
    go.write_line()
    await exit_of(child)
    reason = "cannot be listed, so they may outlive it: [Errno 5] Input/output error"
    assert warnings == [f"the descendants of process {child.pid} {reason}"]
    await gone(pid)
    monkeypatch.undo()
    SUBREAPER.reap_orphans()
