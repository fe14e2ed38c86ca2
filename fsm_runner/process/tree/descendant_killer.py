"""Kills the descendants of a child that has exited, wherever they have moved to."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from loguru import logger

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze_and_kill import FIRST_PAUSE_S, KillLoop, freeze, listed
from fsm_runner.process.tree.process_tree import ProcessTree
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.process.tree.subreaper import Relation, Subreaper

STUCK_S = 10.0
"""The killer gives up when the same descendants remain for this time after SIGKILL. A process that the kernel holds,
for example in a file system call, does not end."""
TRACKING_S = 0.1
"""The longest time for which the event loop is blocked to track or stop a child's descendants: about 1,500 processes.
For stopping, CPU time counts instead: a fork bomb leaves little of it, and must be stopped without a break."""
SLICE_S = 0.01
"""The longest time for which the event loop is blocked at once."""
UNREADABLE_S = 0.05
"""The longest time for which a process may show no environment because it is executing a new program."""


class DescendantKiller:
    """Finds and kills the descendants of one child until none is left.

    A killed process leaves its children to the subreaper, so every search may find more. If there are no descendants,
    this costs one read. Without a subreaper, it does nothing.

    `cgroup.kill` would end a tree at once, but few containers let a runner create a cgroup, so it could only be added
    to this code.
    """

    def __init__(self, subreaper: Subreaper, runner_tag: str | None = None, label: str = "") -> None:
        """Create it before the child is started. For the other parameters, see `ProcessTree`."""
        self.are_gone = False
        """True when no descendant is left, or the killer has given up."""
        self._subreaper = subreaper
        self._tree = subreaper.new_tree(runner_tag, label)
        self._exited_at = 0.0
        self._kills = KillLoop(self._signal)
        self._steps: Iterator[float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return str(self._tree)

    def tagged(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The environment to start the child with."""
        return self._tree.tagged(environment) if self._subreaper.enabled else environment

    @property
    def rlimit_tag(self) -> int:
        """The rlimit tag to start the child with."""
        return self._tree.rlimit_tag

    def started(self, leader: int) -> None:
        """Note that the child has been started, as leader of a session."""
        self._subreaper.started(self._tree, leader)

    def track(self, *, stop: bool) -> None:
        """Note which processes have left the child's session. While the child lives, their parents show it.

        `stop`: also stop them, because the child is about to be killed.
        """
        if not self._subreaper.enabled:
            return
        clock = time.thread_time if stop else time.monotonic
        give_up_at = clock() + TRACKING_S
        try:
            for _ in self._freeze() if stop else ():
                if clock() > give_up_at:
                    break
            for process in self._tree.outside_session():
                self._tree.add(process)
                if stop:
                    self._kills.stop(process)
                if clock() > give_up_at:
                    return
        except OSError as error:  # no descriptor left; their tags remain
            logger.debug("{}: cannot list its descendants: {}", self._tree, error)

    def processes(self) -> Iterator[Process]:
        """The child and its descendants. May yield a process twice. Raises OSError."""
        if not procfs.offers_processes():
            # psutil takes long to import, and only this call needs it.
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
        """CPU time of the child's orphans that have been reaped."""
        return self._tree.reaped_cpu_s

    def kill(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        """Kill the descendants of the child, which has exited, then call `on_gone`: at once if there are none."""
        yield_at = time.monotonic() + SLICE_S
        for pause_s in self._started_steps():
            if pause_s or time.monotonic() >= yield_at:
                self._timer = loop.call_later(pause_s, self.kill, loop, on_gone)
                return
        self.are_gone = True
        on_gone()

    def kill_blocking(self) -> None:
        """Kill the descendants of the child, which has exited, before returning. `on_gone` is not called."""
        if self._timer is not None:
            self._timer.cancel()
        for pause_s in self._started_steps():
            time.sleep(pause_s)
        self.are_gone = True

    def close(self) -> None:
        """Forget the child, which has been reaped or was never started."""
        self._subreaper.remove(self._tree)

    def _started_steps(self) -> Iterator[float]:
        if self._steps is None:
            self._tree.has_ended = True
            self._exited_at = time.monotonic()
            self._steps = self._all_steps() if self._subreaper.enabled else iter(())
        return self._steps

    def _all_steps(self) -> Iterator[float]:
        """Yield the seconds to wait before each next step."""
        try:
            yield from self._kills.steps(self._search, STUCK_S)
        except OSError as error:
            logger.warning("the descendants of {} cannot be listed, so they may outlive it: {}", self._tree, error)
            return
        if self._kills.found:
            for process in self._kills.found.values():
                self._subreaper.given_up.add(process.identity)
            pids = listed([str(process.pid) for process in self._kills.found.values()])
            logger.warning("descendants of {} still there {:g} s after SIGKILL: {}", self._tree, STUCK_S, pids)
        elif self._kills.stopped:
            logger.debug("{}: killed {} descendants that had left its group", self._tree, len(self._kills.stopped))

    def _search(self) -> Iterator[float]:
        """Search until there are descendants, or certainly none."""
        while True:
            found, has_reaped, unreadable = yield from self._search_once()
            self._kills.found = found
            if found or not (has_reaped or unreadable):
                return
            if not has_reaped:  # otherwise the reaped one may have left more orphans
                if time.monotonic() - self._exited_at >= UNREADABLE_S:
                    for process in unreadable:
                        self._subreaper.ignored.add(process.identity)
                    return
                yield FIRST_PAUSE_S

    def _search_once(self) -> Generator[float, None, tuple[dict[Identity, Process], bool, list[Process]]]:
        """Return what was found, whether a zombie was reaped, and the orphans that cannot be assigned yet."""
        found: dict[Identity, Process] = {}
        has_reaped, has_frozen, unreadable = False, False, []
        for pid in self._subreaper.possible_orphans():
            yield 0.0
            if self._subreaper.belongs_to_another(pid, self._tree):
                continue
            process = procfs.read_process(pid)
            if process is None or self._subreaper.is_unrelated(process) or process.identity in self._subreaper.given_up:
                continue
            if process.has_ended and self._subreaper.reap(process):
                has_reaped = True
                continue
            relation = self._subreaper.relation(process, self._tree)
            if relation is Relation.UNREADABLE:
                unreadable.append(process)
            elif relation is not Relation.UNRELATED:
                if not has_frozen and process.identity not in self._kills.stopped:
                    has_frozen = True
                    yield from self._freeze()
                tree = self._tree if relation is Relation.OWN else self._subreaper.leftovers
                yield from self._stop_all(process, tree, found)
        return found, has_reaped, unreadable

    def _freeze(self) -> Iterator[float]:
        """Stop all processes that have to end with the tree. Raises OSError."""
        for _ in freeze(lambda value: self._subreaper.must_end_with(value, self._tree)):
            yield 0.0

    def _stop_all(self, orphan: Process, tree: ProcessTree, found: dict[Identity, Process]) -> Iterator[float]:
        """Stop the orphan and all processes below it, each before its children are listed, and add them to `found`."""
        for process in itertools.chain([orphan], procfs.descendants(orphan)):
            if not process.has_ended and process.identity not in self._subreaper.given_up:
                tree.add(process)
                self._kills.stop(process)
                found[process.identity] = process
            yield 0.0

    def _signal(self, process: Process, number: signal.Signals) -> None:
        try:
            procfs.send(process, number)
        except PermissionError:
            if process.identity in self._subreaper.given_up:
                return
            self._subreaper.given_up.add(process.identity)
            logger.warning("process {} outlives {}, because it belongs to another user", process.pid, self._tree)
        except OSError as error:  # no descriptor left; the next search finds it again
            self._kills.stopped.discard(process.identity)
            logger.debug("{}: cannot send {} to its descendant {}: {}", self._tree, number.name, process.pid, error)
