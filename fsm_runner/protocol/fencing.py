"""The headers by which a coordinator recognizes calls of an earlier owner of a run: protocol.md, section 1.1."""

REGISTRATION_HEADER = "X-Runner-Registration"
"""The number of the runner's registration."""
RUN_HEADER = "X-Run-Id"
"""The run on whose behalf a call writes to its session."""
ATTEMPT_HEADER = "X-Run-Attempt"
"""The attempt of the run that the runner has claimed."""
