"""Applies to all tests."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import settings
from loguru import logger

from fsm_runner.coordinator_server import server as embedded_server
from fsm_runner.coordinator_server.http.app import build_app
from tests.support.deployed import CHECKS, checked

# A change is judged by its own merits: the same examples each time. Whoever works on it meets new ones each time.
# No deadlines: a busy machine is no defect.
settings.register_profile("development", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "development")

# Loguru's own handler would write every line of every run to the report of a failing test.
logger.remove()

# Runners that are not told where to keep their journals keep them here, and not with those of whoever runs the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="fsm-runner-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# Every coordinator that a test starts in this process hands the product's requests to the checks.
patch.object(embedded_server, "build_app", lambda *parts: checked(build_app(*parts))).start()

SENDS_INVALID = "sends_invalid_requests"


@pytest.fixture(autouse=True)
def valid_requests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test in which the product sends a request that a deployed coordinator would refuse.

    A test that has it send such a one on purpose says so with the mark `sends_invalid_requests` and a reason.
    """
    CHECKS.take()
    yield
    defects = CHECKS.take()
    if defects and request.node.get_closest_marker(SENDS_INVALID) is None:
        pytest.fail("the product has sent what a deployed coordinator refuses:\n" + "\n".join(defects), pytrace=False)
