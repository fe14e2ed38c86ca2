"""The environment tags by which a process is recognized as started by a runner, and by which of its trees.

Descendants inherit both tags unless they clear their environment; then their rlimit tag remains (`rlimit_tag.py`).
"""

import secrets

RUNNER_TAG_VARIABLE = "FSM_RUNNER_OWNER"
"""In the environment of everything that a runner starts: the tag of the runner's process. It outlives that process."""
TREE_TAG_VARIABLE = "FSM_RUNNER_TREE"
"""In the environment of everything that a child starts: the tags of the trees around it, outermost first."""

_OWN_TREE_TAGS = f"{secrets.token_hex(8)}."


def runner_tag(identity: str, process: str) -> str:
    """The value of `RUNNER_TAG_VARIABLE`. A runner's identity stays the same; each start has another `process`."""
    return f"{identity}.{process}"


def tree_tag(number: int) -> str:
    """The tag of a tree of this process."""
    return f"{_OWN_TREE_TAGS}{number}"


def own_tree_tag(environment: list[bytes]) -> str | None:
    """The tag in `environment` that this process gave, if any."""
    prefix = f"{TREE_TAG_VARIABLE}=".encode()
    tags = next((entry.removeprefix(prefix) for entry in environment if entry.startswith(prefix)), b"")
    return next((tag for tag in tags.decode(errors="replace").split(",") if tag.startswith(_OWN_TREE_TAGS)), None)
