"""Applies to all tests."""

import os

from hypothesis import settings
from loguru import logger

# A change is judged by its own merits: the same examples each time. Whoever works on it meets new ones each time.
# No deadlines: a busy machine is no defect.
settings.register_profile("development", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "development")

# Loguru's own handler would write every line of every run to the report of a failing test.
logger.remove()
