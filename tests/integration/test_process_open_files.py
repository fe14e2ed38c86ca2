"""The limit of open files is raised for the runner and unchanged for its children."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fsm_runner.process.child import spawn
from fsm_runner.process.child.child import Child
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.limits.open_files import OpenFiles
from tests.support.children import ENV, HERE, exit_of, open_descriptors
from tests.support.open_files import soft_limit

SHOW = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"]
LOW = 200
_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenFiles]:
    """A limit that was raised from a low one."""
    files = OpenFiles()
    monkeypatch.setattr(spawn, "OPEN_FILES", files)
    with soft_limit(LOW):
        files.raise_limit()
        yield files


@contextmanager
def crowd() -> Iterator[None]:
    """Use every descriptor number below the low limit."""
    with ExitStack() as stack:
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= LOW:
            stack.callback(os.close, descriptor)
        stack.callback(os.close, descriptor)
        yield


async def limit_of_a_child(launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY) -> str:
    return (await exit_of(Child.start(SHOW, env=ENV, cwd=HERE, launch_policy=launch_policy))).stdout.text()


async def test_the_limit_is_raised_only_for_the_program(files: OpenFiles) -> None:
    assert files.limit == HARD
    assert await limit_of_a_child() == f"{LOW} {HARD}\n"
    with crowd():
        assert await limit_of_a_child() == f"{LOW} {HARD}\n"
    assert files.limit == HARD
    assert await limit_of_a_child(LaunchPolicy(ResourceLimits(open_files=300))) == "300 300\n"


async def test_a_start_through_a_shell_has_the_same_errors(files: OpenFiles) -> None:
    with crowd():
        for command, message in (
            ("no-such", "command not found"),
            ("./no-such", "does not exist"),
            ("/etc", "directory"),
        ):
            with pytest.raises(SpawnFailed, match=message):
                Child.start([command], env=ENV, cwd=HERE)
        with pytest.raises(SpawnFailed, match="does not exist"):
            Child.start(SHOW, env=ENV, cwd=HERE / "no-such")


def test_a_limit_that_is_high_enough_stays() -> None:
    files = OpenFiles()
    with soft_limit(HARD):
        files.raise_limit()
        with files.inherited() as words:
            assert (words, files.limit) == ([], HARD)


def test_the_descriptors_in_use_are_counted() -> None:
    files = OpenFiles()
    assert files.in_use == open_descriptors() - 1  # counting opens one itself
    with crowd():
        assert files.in_use > LOW
    with soft_limit(LOW):
        assert (files.for_runs, files.share(1_000, 2), files.share(10, 2), files.share(1_000, 8)) == (68, 25, 10, 100)
