"""Applies to all tests."""

import os

from hypothesis import settings
from loguru import logger

# A change is judged by its own merits: the same examples each time. Whoever works on it meets new ones each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Loguru's own handler would write every line of every run to the report of a failing test.
logger.remove()
