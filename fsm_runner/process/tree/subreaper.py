"""Takes in the orphans of runs: processes that have left their run's group and whose parent has ended.

As a rule an orphan becomes a child of the system's first process and is lost among all others. On Linux a process
can ask to be given the orphans among its descendants (PR_SET_CHILD_SUBREAPER). Then they are found by one read of
the list of our own children, and their zombies are ours to reap.

That list has other children too: those of whoever else starts processes in this program. A process that has our
own session is never of a run, since each run has sessions of its own and none can be joined; so it is left alone.
Of the rest, a zombie is reaped only where it can be nobody's but a run's: SIGCHLD or waiting for any child would
take exit codes from others. That is done at each end of a child, and by a timer while children live.
"""

import asyncio
import enum
import os
import sys
from collections.abc import Iterator

from loguru import logger

from fsm_runner.process.exit_watch import has_exited
from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.process_tree import ProcessTree, own_tree_tag
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.rlimit_tag import rlimit_tag_of, tag_prefix_of

REAP_INTERVAL_S = 1.0
"""How often zombies of orphans are looked for while a child lives."""

_PR_SET_CHILD_SUBREAPER = 36


class Relation(enum.Enum):
    """How an orphan is related to a tree that ends."""

    OWN = enum.auto()
    LEFTOVER = enum.auto()
    """From a tree that is no longer known. It has to end, but its usage must not be charged to the tree that ends now.
    """
    FOREIGN = enum.auto()
    UNREADABLE = enum.auto()
    """It cannot be read at this moment, perhaps because it is replacing its program (`exec`)."""


class Subreaper:
    """The trees of this program's children, and which process is of which tree."""

    def __init__(self) -> None:
        self.enabled = False
        self.leftovers = ProcessTree()
        """Orphans from trees that are no longer known. They have to end."""
        self._exclusive = False
        self._trees: dict[str, ProcessTree] = {}
        self._by_rlimit_tag: dict[int, ProcessTree] = {}
        self._assigned: set[int] = set()
        """Ids of orphans of known trees. Only this program reaps them, so until then no other process gets their ids.
        """
        self._known: set[int] = set()
        self._ignored: set[tuple[int, int]] = set()
        """Children that have no mark: not read again while they are there."""
        self._given_up: set[tuple[int, int]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def enable(self, *, exclusive: bool) -> bool:
        self.enabled = self.enabled or _set_child_subreaper(enabled=True)
        self._exclusive = self.enabled and (self._exclusive or exclusive)
        return self.enabled

    def disable(self) -> None:
        """Orphans go to the system's first process again."""
        if self.enabled:
            _set_child_subreaper(enabled=False)
        self.enabled = self._exclusive = False

    def new_tree(self, owner: str | None) -> ProcessTree:
        """Before its leader is started, so that the leader is never taken for an orphan."""
        tree = ProcessTree(owner)
        self._trees[tree.mark] = self._by_rlimit_tag[tree.rlimit_tag] = tree
        return tree

    def started(self, tree: ProcessTree, leader: int) -> None:
        tree.leader = leader
        self.add_known(leader)
        if self.enabled:
            self._reap_regularly()

    def remove(self, tree: ProcessTree) -> None:
        """When its leader is reaped."""
        self._trees.pop(tree.mark, None)
        self._by_rlimit_tag.pop(tree.rlimit_tag, None)
        self.remove_known(tree.leader)

    def add_known(self, pid: int) -> None:
        """A child of ours with a session of its own that is no orphan and that somebody waits for."""
        self._known.add(pid)

    def remove_known(self, pid: int) -> None:
        """It has been reaped."""
        self._known.discard(pid)

    def possible_orphans(self) -> list[int]:
        """Ids of children that may be orphans. Raises OSError where they cannot be read."""
        return [pid for pid in procfs.adopted_children() if pid not in self._known]

    def is_unrelated(self, process: Process) -> bool:
        """Whether it is no orphan of a run for certain."""
        return process.session == os.getsid(0) or process.parent != os.getpid() or process.pid in self._known

    def give_up(self, process: Process) -> None:
        """It does not end; nobody waits for it any more."""
        self._given_up.add(process.identity)

    def is_given_up(self, process: Process) -> bool:
        return process.identity in self._given_up

    def relation(self, process: Process, tree: ProcessTree) -> Relation:
        """How `process`, an unknown child, is related to `tree`, whose leader has exited."""
        if process.has_ended or process.identity in tree.members:
            return self._relation_by_membership(process, tree)
        value = rlimit_tag_of(process.pid)
        if value is not None and tag_prefix_of(value) == tag_prefix_of(tree.rlimit_tag):
            if value == tree.rlimit_tag:
                return Relation.OWN
            return Relation.LEFTOVER if self.must_end_with(value, tree) else Relation.FOREIGN
        environment = procfs.environment(process.pid)
        mark = own_tree_tag(environment)
        if mark is not None:
            if mark == tree.mark:
                return Relation.OWN
            return Relation.FOREIGN if mark in self._trees else Relation.LEFTOVER
        owned = self._relation_by_membership(process, tree)
        if owned is not Relation.FOREIGN or any(other.has(process) for other in self._trees.values()):
            return owned
        if self._exclusive:
            may_be_anothers = any(self._may_own(other, process) for other in self._trees.values() if other is not tree)
            return Relation.FOREIGN if may_be_anothers else Relation.LEFTOVER
        return Relation.FOREIGN if environment or process.identity in self._ignored else Relation.UNREADABLE

    def belongs_to_another(self, pid: int, tree: ProcessTree) -> bool:
        """Whether its rlimit tag is that of another known tree. Cheap, so that a large tree does not delay others."""
        value = rlimit_tag_of(pid)
        return value is not None and value != tree.rlimit_tag and value in self._by_rlimit_tag

    def must_end_with(self, value: int, tree: ProcessTree) -> bool:
        """Whether a process with this rlimit tag has to end with `tree`."""
        if value in self._by_rlimit_tag:
            return value == tree.rlimit_tag
        return tag_prefix_of(value) == tag_prefix_of(tree.rlimit_tag)

    def _relation_by_membership(self, process: Process, tree: ProcessTree) -> Relation:
        if tree.has(process):
            return Relation.OWN
        return Relation.LEFTOVER if self.leftovers.has(process) else Relation.FOREIGN

    def orphans_of(self, tree: ProcessTree) -> Iterator[Process]:
        """Those orphans that are of this tree. Raises OSError."""
        for pid in self.possible_orphans():
            if self.belongs_to_another(pid, tree):
                continue
            process = procfs.read_process(pid)
            if process is None or self.is_unrelated(process):
                continue
            if not process.has_ended:
                self._assign_to_tree(process)
            if tree.has(process):
                yield process

    def ignore(self, process: Process) -> None:
        """It stays without anything in its environment."""
        self._ignored.add(process.identity)

    def reap(self, process: Process) -> bool:
        """Reaps a zombie where nobody else can be waiting for it. Whether it is gone."""
        if not self._may_reap(process):
            return False
        try:
            reaped, _, used = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if reaped:
            self._assigned.discard(process.pid)
            for tree in self._trees.values():
                if tree.has(process):
                    tree.reaped_cpu_s += used.ru_utime + used.ru_stime
        return reaped != 0

    def reap_orphans(self) -> None:
        """Zombies of orphans, and notes which orphan is of which tree. Raises OSError."""
        seen = set()
        held = {pid for pid, _ in self._given_up}
        children = self.possible_orphans()
        self._assigned.intersection_update(children)
        for pid in children:
            if pid in self._assigned and pid not in held and not has_exited(pid):
                continue
            process = procfs.read_process(pid)
            if process is None or self.is_unrelated(process):
                continue
            seen.add(process.identity)
            if process.has_ended:
                self.reap(process)
            else:
                self._assign_to_tree(process)
        self._ignored &= seen
        self._given_up &= seen
        self.leftovers.members &= seen

    def _may_own(self, tree: ProcessTree, process: Process) -> bool:
        return not tree.has_ended and tree.may_have_started(process)

    def _may_reap(self, process: Process) -> bool:
        """A child that this program has started is in our own session or leads its own: it can be in no third one."""
        return (
            self._exclusive
            or process.session != process.pid
            or process.identity in self._given_up
            or any(tree.has(process) for tree in (self.leftovers, *self._trees.values()))
        )

    def _assign_to_tree(self, process: Process) -> None:
        if process.identity in self._ignored or any(process.identity in tree.members for tree in self._trees.values()):
            return
        value, environment = rlimit_tag_of(process.pid), procfs.environment(process.pid)
        tree = self._trees.get(own_tree_tag(environment) or "")
        if tree is None and value is not None:
            tree = self._by_rlimit_tag.get(value)
        if tree is not None:
            tree.add(process)
            self._assigned.add(process.pid)
        elif environment:
            self._ignored.add(process.identity)

    def _reap_regularly(self) -> None:
        if self._timer is None or self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(REAP_INTERVAL_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.reap_orphans()
        except OSError as error:  # no descriptor left; there may be one the next time
            logger.debug("orphans cannot be looked for: {}", error)
        finally:
            if self.enabled and self._trees:
                self._reap_regularly()


SUBREAPER = Subreaper()
"""One for each process, as the list of its children is."""


def become_subreaper(*, exclusive: bool = False) -> bool:
    """From now on orphans of children are found, ended with their child, and reaped. Returns whether they are.

    `exclusive`: this program has no other children with sessions of their own than those it makes known. Then also
    an orphan without any mark is a run's, and is ended as soon as no living child can have started it.

    False on macOS, and on Linux before 5.3 or where /proc does not list the children of a process: then what has
    left its run's process group (`setsid`, daemons) is not ended with the run, but by the sweep when a runner of this
    identity starts again.
    """
    adopted = SUBREAPER.enable(exclusive=exclusive)
    if not adopted:
        logger.info("this system does not tell of orphans: what leaves its run's process group outlives the run")
    return adopted


def _set_child_subreaper(*, enabled: bool) -> bool:
    if sys.platform != "linux" or not procfs.offers_children() or not procfs.offers_pidfds():
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(enabled), 0, 0, 0) == 0)
