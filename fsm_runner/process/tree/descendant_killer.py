"""Ends what has left the group of a child that has exited."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from loguru import logger

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze import freeze
from fsm_runner.process.tree.process_tree import ProcessTree
from fsm_runner.process.tree.procfs import Process
from fsm_runner.process.tree.progress import Progress, named
from fsm_runner.process.tree.subreaper import Relation, Subreaper

STUCK_S = 10.0
"""How long the processes that a child left behind may stay the same after SIGKILL before the hunt gives up. A process
that the kernel holds, for example in a file system call, does not end."""
WALK_S = 0.1
"""How long the loop is blocked at most to remember or stop what a child has started: about 1,500 processes. For
stopping, CPU time counts instead: a fork bomb leaves the runner little of it, and must be stopped without a break."""
SLICE_S = 0.01
"""How long the loop is held at a time."""
FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.02
UNREADABLE_S = 0.05
"""How long a process may show no environment because it is replacing its program."""


class DescendantKiller:
    """Finds the strays of one child again and again, until none is left.

    They are stopped until a look finds no further one, and only then killed: what is stopped starts nothing, and
    keeps its place under a limit of processes. Those that are killed leave their children to us, so more may come
    to light. Where there are none it costs one read; where orphans are not adopted, nothing is looked for.

    A hunt goes on as long as processes start or end. `cgroup.kill` would end a tree at once, but few containers let a
    runner create a cgroup, so this code would be needed in any case.
    """

    def __init__(self, subreaper: Subreaper, owner: str | None = None) -> None:
        """Before the child is started. `owner`: see `ProcessTree`."""
        self.are_gone = False
        """Nothing of the child is left but itself, as far as can be seen."""
        self._subreaper = subreaper
        self._tree = subreaper.new_tree(owner)
        self._began_at = 0.0
        self._progress = Progress()
        self._stopped: set[tuple[int, int]] = set()
        self._found: dict[tuple[int, int], Process] = {}
        self._steps: Iterator[float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def marked(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The environment that the child is to be started with."""
        return self._tree.marked(environment) if self._subreaper.enabled else environment

    @property
    def rlimit_tag(self) -> int:
        """What the child is to be started with, besides."""
        return self._tree.rlimit_tag

    def led_by(self, leader: int) -> None:
        """The child has been started, as leader of a session."""
        self._subreaper.started(self._tree, leader)

    def remember(self, *, stop: bool) -> None:
        """While the child lives: what has left its session can still be told by who started it.

        `stop`: the child is about to be killed, so what was found may start nothing more.
        """
        if not self._subreaper.enabled:
            return
        clock = time.thread_time if stop else time.monotonic
        give_up_at = clock() + WALK_S
        try:
            for _ in self._freeze() if stop else ():
                if clock() > give_up_at:
                    break
            for process in self._tree.descendants():
                self._tree.add(process)
                if stop:
                    self._stop(process)
                if clock() > give_up_at:
                    return
        except OSError as error:  # no descriptor left; their marks will tell
            logger.debug("process {}: what it has started cannot be listed: {}", self._tree.leader, error)

    def living(self) -> Iterator[Process]:
        """Whoever is of the child's tree at this moment, the child first; one may be named twice. Raises OSError."""
        if not procfs.offers_processes():
            # psutil takes its time to load, and is needed here alone.
            from fsm_runner.process.tree.psutil_backend import processes_below

            yield from processes_below(self._tree.leader)
            return
        leader = procfs.read_process(self._tree.leader)
        if leader is not None:
            yield leader
            yield from procfs.descendants(leader)
        if self._subreaper.enabled:
            for orphan in self._subreaper.orphans_of(self._tree):
                yield orphan
                yield from procfs.descendants(orphan)

    @property
    def reaped_cpu_s(self) -> float:
        """CPU time of those that have left the child as orphans and have ended."""
        return self._tree.reaped_cpu_s

    def end(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        """The child has exited. Calls `on_gone` when nothing is left: before it returns where there was nothing."""
        hold_until = time.monotonic() + SLICE_S
        for pause_s in self._begun_steps():
            if pause_s or time.monotonic() >= hold_until:
                self._timer = loop.call_later(pause_s, self.end, loop, on_gone)
                return
        self.are_gone = True
        on_gone()

    def end_blocking(self) -> None:
        """The same here and now; nothing is called back."""
        if self._timer is not None:
            self._timer.cancel()
        for pause_s in self._begun_steps():
            time.sleep(pause_s)
        self.are_gone = True

    def forget(self) -> None:
        """The child has been reaped, or was never started."""
        self._subreaper.remove(self._tree)

    def _begun_steps(self) -> Iterator[float]:
        if self._steps is None:
            self._tree.has_ended = True
            self._began_at = time.monotonic()
            self._steps = self._all_steps() if self._subreaper.enabled else iter(())
        return self._steps

    def _all_steps(self) -> Iterator[float]:
        """The seconds to wait before each next step."""
        pause_s = FIRST_PAUSE_S
        while True:
            yield from self._stop_all()
            if not self._found:
                break
            if self._progress.is_stuck(frozenset(self._found), STUCK_S):
                self._give_up()
                return
            for process in self._found.values():
                self._signal(process, signal.SIGKILL)
                yield 0.0
            yield pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._stopped:
            logger.debug("process {}: {} that had left its group were ended", self._tree.leader, len(self._stopped))

    def _stop_all(self) -> Iterator[float]:
        """Ends when a look has found nothing that was not stopped before; what it has found is in `_found`."""
        stopped_before = -1
        while len(self._stopped) > stopped_before:
            stopped_before = len(self._stopped)
            yield from self._look()

    def _look(self) -> Iterator[float]:
        """Ends when there are strays, or for certain none."""
        while True:
            try:
                unsettled, unreadable = yield from self._pass_through()
            except OSError as error:  # no descriptor left, but other children end and give some back
                if self._progress.is_stuck(frozenset(), STUCK_S):
                    logger.warning(
                        "the processes that process {} left behind cannot be looked for, so they may outlive it: {}",
                        self._tree.leader,
                        error,
                    )
                    return
                yield LONGEST_PAUSE_S
                continue
            if self._found or not (unsettled or unreadable):
                return
            if not unsettled:
                if time.monotonic() - self._began_at >= UNREADABLE_S:
                    for process in unreadable:
                        self._subreaper.ignore(process)
                    return
                yield FIRST_PAUSE_S

    def _pass_through(self) -> Generator[float, None, tuple[bool, list[Process]]]:
        """Whether somebody was reaped, who may have left us children meanwhile; and who could not be judged."""
        found: dict[tuple[int, int], Process] = {}
        has_reaped, has_frozen, unreadable = False, False, []
        for pid in self._subreaper.possible_orphans():
            yield 0.0
            if self._subreaper.belongs_to_another(pid, self._tree):
                continue
            process = procfs.read_process(pid)
            if process is None or self._subreaper.is_unrelated(process) or self._subreaper.is_given_up(process):
                continue
            if process.has_ended and self._subreaper.reap(process):
                has_reaped = True
                continue
            relation = self._subreaper.relation(process, self._tree)
            if relation is Relation.UNREADABLE:
                unreadable.append(process)
            elif relation is not Relation.FOREIGN:
                if not has_frozen and process.identity not in self._stopped:
                    has_frozen = True
                    yield from self._freeze()
                tree = self._tree if relation is Relation.OWN else self._subreaper.leftovers
                yield from self._take(process, tree, found)
        self._found = found
        return has_reaped, unreadable

    def _freeze(self) -> Iterator[float]:
        """Stops all processes that have to end with the tree. Raises OSError."""
        for _ in freeze(lambda value: self._subreaper.must_end_with(value, self._tree)):
            yield 0.0

    def _take(self, stray: Process, tree: ProcessTree, found: dict[tuple[int, int], Process]) -> Iterator[float]:
        """Adds it, and all that is below it, to what was found; each is stopped before its children are looked for."""
        for process in itertools.chain([stray], procfs.descendants(stray)):
            if not process.has_ended and not self._subreaper.is_given_up(process):
                tree.add(process)
                self._stop(process)
                found[process.identity] = process
            yield 0.0

    def _stop(self, process: Process) -> None:
        if process.identity in self._stopped:
            return
        self._stopped.add(process.identity)
        if not process.is_stopped:
            self._signal(process, signal.SIGSTOP)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        try:
            procfs.send(process, number)
        except PermissionError:
            if self._subreaper.is_given_up(process):
                return
            self._subreaper.give_up(process)
            logger.warning("process {} is another user's, so it outlives its run", process.pid)
        except OSError as error:  # no descriptor left: it is found again
            self._stopped.discard(process.identity)
            logger.debug("process {} cannot be signalled: {}", process.pid, error)

    def _give_up(self) -> None:
        for process in self._found.values():
            self._subreaper.give_up(process)
        pids = named([str(process.pid) for process in self._found.values()])
        logger.warning("left by process {} and still there {:g} s after SIGKILL: {}", self._tree.leader, STUCK_S, pids)
