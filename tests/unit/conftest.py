"""Unit tests start no process, so that all of them together answer within seconds."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

STARTS_PROCESS = frozenset(
    {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system"}
)


class _Guard:
    """Forbids to start a process while `is_active`. An audit hook cannot be removed, hence one for the session."""

    def __init__(self) -> None:
        self.is_active = False
        self.violations: list[str] = []
        sys.addaudithook(self._check)

    def _check(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_active and event in STARTS_PROCESS:
            self.violations.append(f"{event}{arguments!r:.200}")
            raise RuntimeError(f"a unit test must not start a process: {self.violations[-1]}")


@pytest.fixture(scope="session")
def guard() -> _Guard:
    return _Guard()


@pytest.fixture(autouse=True)
def no_process(guard: _Guard) -> Iterator[None]:
    """Fail a test that starts a process; such a test belongs to `tests/integration`."""
    guard.violations.clear()
    guard.is_active = True
    yield
    guard.is_active = False
    if guard.violations:
        pytest.fail("a unit test must not start a process: " + "; ".join(guard.violations), pytrace=False)
