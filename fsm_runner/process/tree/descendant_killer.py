"""Kills the descendants of a child that has exited, wherever they have moved to."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Generator, Iterator

from loguru import logger

from fsm_runner.process.tree import procfs
from fsm_runner.process.tree.freeze_and_kill import FIRST_PAUSE_S, KillLoop, freeze, listed
from fsm_runner.process.tree.procfs import Identity, Process
from fsm_runner.process.tree.subreaper import SUBREAPER

STUCK_S = 10.0
"""The killer gives up when the same descendants remain for this time after SIGKILL. A process that the kernel holds,
for example in a file system call, does not end."""
TRACKING_S = 0.1
"""The longest time for which the event loop is blocked to track a child's descendants: about 1,500 processes. To stop
them, it may be blocked until this much CPU time has been used, since a fork bomb leaves this program little of it."""
SLICE_S = 0.01
"""The longest time for which the event loop is blocked at once."""
UNREADABLE_S = 0.05
"""The longest time for which a process may show no environment because it is executing a new program."""


class DescendantKiller:
    """Finds and kills the descendants of one child until none is left.

    A killed process leaves its children to the subreaper, so every search may find more. If there are no descendants,
    this costs one read. Without a subreaper, it kills nothing.

    `cgroup.kill` would end a tree at once, but few containers let a runner create a cgroup, so it could not
    replace this code.
    """

    def __init__(self, runner_tag: str | None, label: str) -> None:
        """Create it before the child is started. For the parameters, see `ProcessTree`."""
        self.are_gone = False
        """True when no descendant is left, or the killer has given up."""
        self.tree = SUBREAPER.new_tree(runner_tag, label)
        self._exited_at = 0.0
        self._kills = KillLoop(self._signal)
        self._steps: Iterator[float] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def track(self, *, stop: bool) -> None:
        """Note which processes have left the child's session. While the child lives, their parents show it.

        `stop`: also stop them, because the child is about to be killed.
        """
        if not SUBREAPER.enabled:
            return
        clock = time.thread_time if stop else time.monotonic
        give_up_at = clock() + TRACKING_S
        try:
            for _ in self._freeze() if stop else ():
                if clock() > give_up_at:
                    break
            for process in self.tree.outside_session():
                self.tree.add(process)
                if stop:
                    self._kills.stop(process)
                if clock() > give_up_at:
                    return
        except OSError as error:  # no descriptor left; their tags remain
            logger.debug("{}: cannot list its descendants: {}", self.tree, error)

    def processes(self) -> Iterator[Process]:
        """The child and its descendants. May yield a process twice. Raises OSError."""
        if not procfs.offers_processes():
            # psutil takes long to import, and only this call needs it.
            from fsm_runner.process.tree.psutil_backend import processes_below

            yield from processes_below(self.tree.leader)
            return
        leader = procfs.read_process(self.tree.leader)
        orphans = SUBREAPER.orphans_of(self.tree) if SUBREAPER.enabled else ()
        for top in itertools.chain([leader] if leader else [], orphans):
            yield top
            yield from procfs.descendants(top)

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
        SUBREAPER.remove(self.tree)

    def _started_steps(self) -> Iterator[float]:
        if self._steps is None:
            self.tree.has_ended = True
            self._exited_at = time.monotonic()
            self._steps = self._all_steps() if SUBREAPER.enabled else iter(())
        return self._steps

    def _all_steps(self) -> Iterator[float]:
        """Yield the seconds to wait before each next step."""
        try:
            yield from self._kills.steps(self._search, STUCK_S)
        except OSError as error:
            for process in self._kills.found.values():  # they would stay stopped
                self._signal(process, signal.SIGKILL)
            logger.warning("the descendants of {} cannot be listed, so they may outlive it: {}", self.tree, error)
            return
        if self._kills.found:
            SUBREAPER.given_up.update(self._kills.found)
            pids = listed([str(process.pid) for process in self._kills.found.values()])
            logger.warning("descendants of {} still there {:g} s after SIGKILL: {}", self.tree, STUCK_S, pids)
        elif self._kills.stopped:
            logger.debug("{}: killed {} descendants that had left its group", self.tree, len(self._kills.stopped))

    def _search(self) -> Iterator[float]:
        """Search until there are descendants, or certainly none."""
        while True:
            found, has_reaped, unreadable = yield from self._search_once()
            self._kills.found = found
            if found or not (has_reaped or unreadable):
                return
            if not has_reaped:
                if time.monotonic() - self._exited_at >= UNREADABLE_S:
                    SUBREAPER.ignored.update(process.identity for process in unreadable)
                    return
                yield FIRST_PAUSE_S

    def _search_once(self) -> Generator[float, None, tuple[dict[Identity, Process], bool, list[Process]]]:
        """Return what was found, whether a zombie was reaped, and the orphans that cannot be assigned yet.

        A reaped process may have left orphans that the list does not have. Other code reaps as well while this waits:
        the subreaper's timer, and the end of another child.
        """
        found: dict[Identity, Process] = {}
        reaped_before = SUBREAPER.reaped_count
        has_frozen, unreadable = False, []
        for pid in SUBREAPER.possible_orphans():
            yield 0.0
            if SUBREAPER.belongs_to_another(pid, self.tree):
                continue
            process = SUBREAPER.read_orphan(pid)
            if process is None or process.identity in SUBREAPER.given_up:
                continue
            if process.has_ended and SUBREAPER.reap(process):
                continue
            relation = SUBREAPER.relation(process, self.tree)
            if relation == "unreadable":
                unreadable.append(process)
            elif relation != "unrelated":
                if not has_frozen and process.identity not in self._kills.stopped:
                    has_frozen = True
                    yield from self._freeze()
                tree = self.tree if relation == "own" else SUBREAPER.leftovers
                # Each process is stopped before its children are listed.
                for each in itertools.chain([process], procfs.descendants(process)):
                    if not each.has_ended and each.identity not in SUBREAPER.given_up:
                        tree.add(each)
                        self._kills.stop(each)
                        found[each.identity] = each
                    yield 0.0
        return found, SUBREAPER.reaped_count > reaped_before, unreadable

    def _freeze(self) -> Iterator[float]:
        """Stop all processes that have to end with the tree. Raises OSError."""
        return freeze(lambda value: SUBREAPER.must_end_with(value, self.tree))

    def _signal(self, process: Process, number: signal.Signals) -> None:
        try:
            procfs.send(process, number)
        except PermissionError:
            if process.identity in SUBREAPER.given_up:
                return
            SUBREAPER.given_up.add(process.identity)
            logger.warning("process {} outlives {}, because it belongs to another user", process.pid, self.tree)
        except OSError as error:  # no descriptor left; the next search finds it again
            self._kills.stopped.discard(process.identity)
            logger.debug("{}: cannot send {} to its descendant {}: {}", self.tree, number.name, process.pid, error)
