"""Applies to all tests."""

from loguru import logger

# Loguru's own handler would write every line of every run to the report of a failing test.
logger.remove()
