"""Applies to all tests."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from unittest.mock import patch

import psutil
import pytest
from hypothesis import settings
from loguru import logger

from fsm_runner.coordinator_server import server as embedded_server
from fsm_runner.coordinator_server.http.app import build_app
from tests.support.deployed import CHECKS, checked

# CI tries the same examples each time, so that only the change decides. Without CI they are new each time.
# No deadlines: a busy machine is no defect.
settings.register_profile("development", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "development")

# Loguru's own handler would write every line of every run to the report of a failing test.
logger.remove()

# Runners without a setting for it keep their journals here, apart from those of the user.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="fsm-runner-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# Every coordinator that a test starts in this process hands the product's requests to the checks.
patch.object(embedded_server, "build_app", lambda *parts: checked(build_app(*parts))).start()

SENDS_INVALID = "sends_invalid_requests"
PROCESSES_END_WITHIN_S = 60.0
"""Processes that a test has asked to end may still end within this time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests with the mark `linux` elsewhere, for the reason that the mark gives."""
    for item in items:
        for mark in item.iter_markers("linux"):
            reason = mark.kwargs["reason"]
            if sys.platform != "linux":
                item.add_marker(pytest.mark.skip(reason=f"needs Linux: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail skipped tests in CI, where everything that a test needs must be there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def no_processes_left() -> Iterator[None]:
    """Fail the last test of a test process that leaves processes behind."""
    yield
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=PROCESSES_END_WITHIN_S)
    assert not alive, f"the tests have left processes: {[_described(process) for process in alive]}"


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}"


@pytest.fixture(autouse=True)
def valid_requests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test in which the product sends a request that a deployed coordinator would refuse.

    A test in which it must send one has the mark `sends_invalid_requests` with a reason.
    """
    CHECKS.take()
    yield
    defects = CHECKS.take()
    if defects and request.node.get_closest_marker(SENDS_INVALID) is None:
        pytest.fail("a deployed coordinator refuses these requests:\n" + "\n".join(defects), pytrace=False)
