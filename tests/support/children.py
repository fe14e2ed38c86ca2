"""Shared by the tests of child processes."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fsm_runner.process.child import child as child_module
from fsm_runner.process.child.child import Child, Exit
from fsm_runner.process.tree.process_tree import TREE_TAG_VARIABLE, tree_tag
from fsm_runner.process.tree.subreaper import SUBREAPER
from tests.support.processes import with_environment
from tests.support.watch import PATIENCE_S

ENV = {"PATH": os.environ["PATH"]}
HERE = Path.cwd()
OWN_TREE_TAGS = f"{TREE_TAG_VARIABLE}={tree_tag(0).partition('.')[0]}"


def start_shell(script: str, *arguments: str) -> Child:
    return Child.start(["/bin/sh", "-c", script, "sh", *arguments], env=ENV, cwd=HERE)


@contextmanager
def subreaper_enabled(*, exclusive: bool) -> Iterator[None]:
    """Make the test process a subreaper, and check at the end that no child has left anything."""
    assert SUBREAPER.enable(exclusive=exclusive)
    children = set(SUBREAPER.possible_orphans())
    try:
        yield
        assert with_environment(OWN_TREE_TAGS) == []
        SUBREAPER.enable(exclusive=True)
        SUBREAPER.reap_orphans()  # without `exclusive`, other code could be waiting for some zombies
        assert set(SUBREAPER.possible_orphans()) <= children
    finally:
        SUBREAPER.disable()


async def exit_of(child: Child) -> Exit:
    return await asyncio.wait_for(child.wait(), PATIENCE_S)


def without_drain_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that an end does not come from the limit for reading output after the exit."""
    monkeypatch.setattr(child_module, "OUTPUT_DRAIN_S", 10 * PATIENCE_S)


def is_reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def open_descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())
