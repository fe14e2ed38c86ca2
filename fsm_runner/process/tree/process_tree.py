"""What one child has started, and how its processes are told from all others."""

import itertools
import os
import secrets
from collections.abc import Iterator, Mapping

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag

TREE_TAG_VARIABLE = "FSM_RUNNER_TREE"
"""In the environment of everything that a child starts: the marks of the trees that it is in, outermost first."""

_OWN_TREE_TAGS = f"{secrets.token_hex(8)}."
_numbers = itertools.count(1)


class ProcessTree:
    """A child that leads its session, and what came from it, wherever that has moved to.

    A process is of the tree when it has its mark in its environment, or its rlimit tag; when it is in the leader's
    session or group, which no process of another tree can join; or when it was seen below one that is of the tree.
    """

    __slots__ = ("_sessions", "has_ended", "leader", "mark", "members", "reaped_cpu_s", "rlimit_tag")

    def __init__(self, owner: str | None = None) -> None:
        """`owner`: the value of `RUNNER_TAG_VARIABLE` of the runner that starts it."""
        number = next(_numbers)
        self.mark = f"{_OWN_TREE_TAGS}{number}"
        self.rlimit_tag = rlimit_tag(owner or _OWN_TREE_TAGS, number)
        self.leader = 0
        """The leader's process id, which is not given away while the tree is known; 0 before it is started."""
        self.has_ended = False
        """The leader has exited: what is left has to end too."""
        self.members: set[tuple[int, int]] = set()
        """Who was found to be of the tree."""
        self.reaped_cpu_s = 0.0
        """CPU time of those that have come to us as orphans, and were reaped."""
        self._sessions: set[int] = set()

    def marked(self, environment: Mapping[str, str]) -> dict[str, str]:
        outer = os.environ.get(TREE_TAG_VARIABLE)
        return {**environment, TREE_TAG_VARIABLE: f"{outer},{self.mark}" if outer else self.mark}

    def add(self, process: Process) -> None:
        self.members.add(process.identity)
        if self.has_ended:  # until then so much time may pass that a session's number is given away
            self._sessions.add(process.session)

    def has(self, process: Process) -> bool:
        return (
            (self.leader != 0 and self.leader in (process.session, process.group))
            or process.session in self._sessions
            or process.identity in self.members
        )

    def descendants(self) -> Iterator[Process]:
        """Whoever has left the leader's session and can still be told by who started it. Raises OSError."""
        leader = procfs.read_process(self.leader)
        if leader is not None:
            yield from (each for each in procfs.descendants(leader) if each.session != self.leader)

    def may_have_started(self, process: Process) -> bool:
        """Whether nothing speaks against it: nobody starts a process before it is there itself."""
        leader = procfs.read_process(self.leader)
        return leader is None or leader.started_ticks <= process.started_ticks


def own_tree_tag(environment: list[bytes]) -> str | None:
    """The mark in it that was given by this process; None where there is none."""
    prefix = f"{TREE_TAG_VARIABLE}=".encode()
    marks = next((entry.removeprefix(prefix) for entry in environment if entry.startswith(prefix)), b"")
    return next((mark for mark in marks.decode(errors="replace").split(",") if mark.startswith(_OWN_TREE_TAGS)), None)
