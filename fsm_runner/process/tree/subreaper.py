"""Makes this process the parent of its orphaned descendants, and assigns each orphan to the tree that it belongs to.

An orphan is a process whose parent has ended. It normally becomes a child of the system's first process. On Linux a
process can ask for the orphans among its descendants (PR_SET_CHILD_SUBREAPER). Then one read of the list of its own
children finds them, and it reaps them.

That list also has the children of other code in this program. A process in this program's own session never belongs
to a run, because each run has sessions of its own and no process can join another session; so it is left alone. A
zombie of another session is reaped only if no other code can be waiting for it: SIGCHLD handlers or a wait for any
child would take exit codes from others. This happens when a child ends, and regularly while children live.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Literal

from loguru import logger

from fsm_runner.process.exit_watch import has_exited
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.process_tree import ProcessTree, own_tree_tag
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of, tag_prefix_of

REAP_INTERVAL_S = 1.0
"""The interval between two searches for zombies of orphans while a child lives."""

_PR_SET_CHILD_SUBREAPER = 36


Relation = Literal["own", "leftover", "unrelated", "unreadable"]
"""The relation of an orphan to a tree that is being ended. A leftover belongs to a tree that is no longer known; it has
to end, but is not charged to the tree that ends now. An unreadable one may be executing a new program just now."""


class Subreaper:
    """The trees of this program's children, and the assignment of orphans to them."""

    def __init__(self) -> None:
        self.enabled = False
        self.leftovers = ProcessTree()
        """Orphans of trees that are no longer known. They have to end."""
        self._exclusive = False
        self._trees: dict[str, ProcessTree] = {}
        self._by_rlimit_tag: dict[int, ProcessTree] = {}
        self._assigned: set[int] = set()
        """Ids of orphans of known trees. No other process gets such an id before this program reaps the orphan."""
        self.known: set[int] = set()
        """Ids of children that lead their own session, are not orphans, and are reaped by other code."""
        self.ignored: set[Identity] = set()
        """Children without a tag, which are not read again."""
        self.given_up: set[Identity] = set()
        """Processes that do not end, which are no longer waited for."""
        self.reaped_count = 0
        """How many zombies are gone. If it grows while a list of children is in use, the list is out of date: the
        children of a reaped process may not be in it."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def enable(self, *, exclusive: bool = False) -> bool:
        """Adopt orphaned descendants from now on, so that they end with their child. Return False if impossible.

        `exclusive`: this program has no children with sessions of their own except known ones. Then an orphan without
        any tag belongs to a run too, and is ended as soon as no living child can have started it.

        It is impossible on macOS, on Linux before 5.3, and if /proc does not list the children of a process. Then a
        process that has left its run's process group (`setsid`, daemons) outlives the run, until a runner of this
        identity starts again and kills it.
        """
        self.enabled = self.enabled or _set_child_subreaper(enabled=True)
        self._exclusive = self.enabled and (self._exclusive or exclusive)
        if not self.enabled:
            logger.info(
                "this system does not report orphans, so a process that leaves its run's group outlives the run"
            )
        return self.enabled

    def disable(self) -> None:
        """Let the system's first process adopt orphans again."""
        if self.enabled:
            _set_child_subreaper(enabled=False)
        self.enabled = self._exclusive = False

    def new_tree(self, runner_tag: str | None, label: str) -> ProcessTree:
        """Register a tree before its leader is started, so that the leader is never taken for an orphan."""
        tree = ProcessTree(runner_tag, label)
        self._trees[tree.tag] = self._by_rlimit_tag[tree.rlimit_tag] = tree
        return tree

    def started(self, tree: ProcessTree, leader: int) -> None:
        tree.leader = leader
        self.known.add(leader)
        if self.enabled:
            self._schedule_reaping()

    def remove(self, tree: ProcessTree) -> None:
        """Forget a tree whose leader has been reaped or was never started."""
        self._trees.pop(tree.tag, None)
        self._by_rlimit_tag.pop(tree.rlimit_tag, None)
        self.known.discard(tree.leader)

    def possible_orphans(self) -> list[int]:
        """The ids of this process's children, except known ones. Raises OSError."""
        return [pid for pid in procfs.adopted_children() if pid not in self.known]

    def read_orphan(self, pid: int) -> Process | None:
        """Read a possible orphan. None if it is certainly not an orphan of a run."""
        process = procfs.read_process(pid)
        if process is None or process.session == os.getsid(0) or process.parent != os.getpid() or pid in self.known:
            return None
        return process

    def relation(self, process: Process, tree: ProcessTree) -> Relation:
        """Return the relation of a possible orphan to `tree`, whose leader has exited."""
        if process.has_ended or process.identity in tree.members:
            return self._relation_by_membership(process, tree)
        value = rlimit_tag_of(process.pid)
        if value == tree.rlimit_tag:
            return "own"
        if value is not None and tag_prefix_of(value) == tag_prefix_of(tree.rlimit_tag):
            return "unrelated" if value in self._by_rlimit_tag else "leftover"
        environment = procfs.environment(process.pid)
        tag = own_tree_tag(environment)
        if tag == tree.tag:
            return "own"
        if tag is not None:
            return "unrelated" if tag in self._trees else "leftover"
        relation = self._relation_by_membership(process, tree)
        if relation != "unrelated" or any(other.has(process) for other in self._trees.values()):
            return relation
        if self._exclusive:
            others = [other for other in self._trees.values() if other is not tree and not other.has_ended]
            may_be_theirs = any(other.may_have_started(process) for other in others)
            return "unrelated" if may_be_theirs else "leftover"
        return "unrelated" if environment or process.identity in self.ignored else "unreadable"

    def belongs_to_another(self, pid: int, tree: ProcessTree) -> bool:
        """Return True if the process has the rlimit tag of another known tree.

        This is cheap, so a large tree does not delay the end of others.
        """
        value = rlimit_tag_of(pid)
        return value is not None and value != tree.rlimit_tag and value in self._by_rlimit_tag

    def must_end_with(self, value: int, tree: ProcessTree) -> bool:
        """Return True if a process with this rlimit tag has to end with `tree`."""
        if value in self._by_rlimit_tag:
            return value == tree.rlimit_tag
        return tag_prefix_of(value) == tag_prefix_of(tree.rlimit_tag)

    def orphans_of(self, tree: ProcessTree) -> Iterator[Process]:
        """The orphans that belong to `tree`. Raises OSError."""
        for pid in self.possible_orphans():
            if self.belongs_to_another(pid, tree):
                continue
            if (process := self.read_orphan(pid)) is None:
                continue
            if not process.has_ended:
                self._assign_to_tree(process)
            if tree.has(process):
                yield process

    def reap(self, process: Process) -> bool:
        """Reap a zombie unless other code may be waiting for it. Return True if it is gone."""
        # A child that other code has started is in this program's session or leads its own; it cannot be in a third.
        if not (
            self._exclusive
            or process.session != process.pid
            or process.identity in self.given_up
            or any(tree.has(process) for tree in (self.leftovers, *self._trees.values()))
        ):
            return False
        try:
            reaped, _, used = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:
            self.reaped_count += 1
            return True
        if reaped:
            self.reaped_count += 1
            self._assigned.discard(process.pid)
            for tree in self._trees.values():
                if tree.has(process):
                    tree.reaped_cpu_s += used.ru_utime + used.ru_stime
        return reaped != 0

    def reap_orphans(self) -> None:
        """Reap the zombies of orphans and assign the other orphans to their trees. Raises OSError."""
        seen = set()
        held = {pid for pid, _ in self.given_up}
        children = self.possible_orphans()
        self._assigned.intersection_update(children)
        for pid in children:
            if pid in self._assigned and pid not in held and not has_exited(pid):
                continue
            if (process := self.read_orphan(pid)) is None:
                continue
            seen.add(process.identity)
            if process.has_ended:
                self.reap(process)
            else:
                self._assign_to_tree(process)
        self.ignored &= seen
        self.given_up &= seen
        self.leftovers.members &= seen

    def _relation_by_membership(self, process: Process, tree: ProcessTree) -> Relation:
        if tree.has(process):
            return "own"
        return "leftover" if self.leftovers.has(process) else "unrelated"

    def _assign_to_tree(self, process: Process) -> None:
        if process.identity in self.ignored or any(process.identity in tree.members for tree in self._trees.values()):
            return
        value, environment = rlimit_tag_of(process.pid), procfs.environment(process.pid)
        tree = self._trees.get(own_tree_tag(environment) or "")
        if tree is None and value is not None:
            tree = self._by_rlimit_tag.get(value)
        if tree is not None:
            tree.add(process)
            self._assigned.add(process.pid)
        elif environment:
            self.ignored.add(process.identity)

    def _schedule_reaping(self) -> None:
        if self._timer is None or self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(REAP_INTERVAL_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.reap_orphans()
        except OSError as error:  # no descriptor left; there may be one the next time
            logger.debug("cannot list orphans: {}", error)
        finally:
            if self.enabled and self._trees:
                self._schedule_reaping()


SUBREAPER = Subreaper()
"""The only instance, because the list of children belongs to the process."""


def _set_child_subreaper(*, enabled: bool) -> bool:
    if sys.platform != "linux" or not procfs.offers_children() or not procfs.offers_pidfds():
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0) == 0)
