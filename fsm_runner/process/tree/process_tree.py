"""The processes that belong to one child, and the environment tags by which they are recognized.

Descendants inherit the tags unless they clear their environment; then their rlimit tag remains (`rlimit_tag.py`).
"""

import itertools
import os
import secrets
from collections.abc import Iterator, Mapping

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag

RUNNER_TAG_VARIABLE = "FSM_RUNNER_OWNER"
"""In the environment of everything that a runner starts: the tag of the runner's process. It outlives that process."""
TREE_TAG_VARIABLE = "FSM_RUNNER_TREE"
"""In the environment of everything that a child starts: the tags of the trees around it, outermost first."""

_OWN_TREE_TAGS = f"{secrets.token_hex(8)}."
_numbers = itertools.count(1)


class ProcessTree:
    """A child that leads its session, and all its descendants, even those that left its session or lost their parent.

    A process belongs to the tree if it has one of the tree's tags, is in the leader's session or group (which no
    process of another tree can join), or was once seen below a process of the tree.
    """

    def __init__(self, runner_tag: str | None = None, label: str = "") -> None:
        """`runner_tag`: the tag of the runner that starts the tree, if it is one. `label`: its run, for log lines."""
        self.label = label
        number = next(_numbers)
        self.tag = tree_tag(number)
        self.rlimit_tag = rlimit_tag(runner_tag or self.tag.partition(".")[0], number)
        self.leader = 0
        """The leader's process id, which no other process gets while the tree is known; 0 before the start."""
        self.has_ended = False
        """The leader has exited, so the other processes have to end too."""
        self.members: set[Identity] = set()
        self.reaped_cpu_s = 0.0
        """CPU time of the orphans that this process has reaped."""
        self._sessions: set[int] = set()

    def __str__(self) -> str:
        return f"process {self.leader}{self.label and f' of {self.label}'}"

    def tagged(self, environment: Mapping[str, str]) -> dict[str, str]:
        """`environment` with the tree's tag."""
        outer = os.environ.get(TREE_TAG_VARIABLE)
        return {**environment, TREE_TAG_VARIABLE: f"{outer},{self.tag}" if outer else self.tag}

    def add(self, process: Process) -> None:
        self.members.add(process.identity)
        if self.has_ended:  # in a longer time, the session's id could be reused
            self._sessions.add(process.session)

    def has(self, process: Process) -> bool:
        """Return True if the process is known to belong to the tree, without reading its tags."""
        return (
            (self.leader != 0 and self.leader in (process.session, process.group))
            or process.session in self._sessions
            or process.identity in self.members
        )

    def outside_session(self) -> Iterator[Process]:
        """The descendants that have left the leader's session but not lost their parents. Raises OSError."""
        leader = procfs.read_process(self.leader)
        if leader is not None:
            yield from (each for each in procfs.descendants(leader) if each.session != self.leader)

    def may_have_started(self, process: Process) -> bool:
        """Return False if the process is older than the leader."""
        leader = procfs.read_process(self.leader)
        return leader is None or leader.started_ticks <= process.started_ticks


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
