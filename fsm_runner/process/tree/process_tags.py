"""Whose a process is: a mark in the environment of everything that a runner starts, which outlives the runner."""

RUNNER_TAG_VARIABLE = "FSM_RUNNER_OWNER"


def runner_tag(identity: str, process: str) -> str:
    """The value of `RUNNER_TAG_VARIABLE`: a runner's identity stays the same, its process is another at each start."""
    return f"{identity}.{process}"
