"""Applies to all tests."""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings
from loguru import logger

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
