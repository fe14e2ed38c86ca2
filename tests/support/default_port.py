"""The port of a runner's own coordinator. It is one for the whole machine, so the tests take turns."""

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_LOCK = Path(tempfile.gettempdir()) / "fsm-runner-tests-default-port.lock"


@pytest.fixture
def default_port() -> Iterator[None]:
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
