"""Applies to all integration tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fifo import Fifo


@pytest.fixture
async def signs(tmp_path: Path) -> AsyncIterator[Fifo]:
    """A named pipe by which the processes of a test report."""
    async with Fifo(tmp_path / "signs") as fifo:
        yield fifo


@pytest.fixture
async def go(tmp_path: Path) -> AsyncIterator[Fifo]:
    """A named pipe that the processes of a test wait for."""
    async with Fifo(tmp_path / "go") as fifo:
        yield fifo
