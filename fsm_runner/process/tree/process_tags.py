"""Whose a process is: a mark in the environment of everything that a runner starts, which outlives the runner."""

OWNER_VARIABLE = "FSM_RUNNER_OWNER"


def owner_of(identity: str, process: str) -> str:
    """The value of `OWNER_VARIABLE`: a runner's identity stays the same, its process is another at each start."""
    return f"{identity}.{process}"
