"""Reports when too few file descriptors are left for another run, and when there are enough again."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from fsm_runner.errors import UsageError
from fsm_runner.process.limits.open_files import OPEN_FILES, OWN_DESCRIPTORS, OpenFiles

START_DESCRIPTORS = 8
"""Reserved for each run whose process is not started yet: those of the process, and those that starting it needs."""
RUN_DESCRIPTORS = 5
"""The descriptors of a typical run: four for its process, and one for a connection to the gateway."""
CHECK_INTERVAL_S = 1.0
"""The time between two checks during a shortage. Otherwise each start and end of a run causes one."""
FREED_AFTER_S = 5.0
"""A shortage ends when there has been room for another run for this long. Otherwise a busy runner would change its
state with each run. No run waits for this: during a shortage, runs are claimed as soon as there is room."""

LASTING_AFTER_S = 5.0
"""A lack of room that has lasted this long does not pass by itself. A shorter one may: connections hold descriptors
briefly when many executors report at once."""


class Load(Protocol):
    """The runs that use descriptors."""

    def __len__(self) -> int:
        """Return the number of runs that the runner holds."""

    @property
    def unstarted(self) -> int:
        """The number of these runs whose process is not started yet."""


class DescriptorWatch:
    """Watches the runner's file descriptors. `close` ends it."""

    def __init__(
        self,
        load: Load,
        on_short: Callable[[str], None],
        on_freed: Callable[[], None],
        open_files: OpenFiles = OPEN_FILES,
    ) -> None:
        """`on_short` is called with the reason when a shortage begins, `on_freed` when it ends."""
        self._on_short = on_short
        self._on_freed = on_freed
        self._load = load
        self._open_files = open_files
        self._short_at_s: float | None = None
        """The time of the last check in the current shortage that found no room; None without a shortage."""
        self._no_room_since_s: float | None = None
        """The time of the first of the consecutive checks that found no room; None if the last check found room."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_short(self) -> bool:
        """True during a shortage."""
        return self._short_at_s is not None

    @property
    def has_room(self) -> bool:
        """True if there are descriptors for another run once all current runs have started their processes."""
        return self._left >= START_DESCRIPTORS

    @property
    def has_lasting_shortage(self) -> bool:
        """True if there has been no room for `LASTING_AFTER_S`."""
        since_s = self._no_room_since_s
        return since_s is not None and asyncio.get_running_loop().time() >= since_s + LASTING_AFTER_S

    @property
    def summary(self) -> str:
        """The descriptors that a run needs and those that are free, for messages."""
        text = (
            f"a run needs {START_DESCRIPTORS} file descriptors; free of the {self._open_files.for_runs} for runs: "
            f"{max(0, self._left)} (`ulimit -n` {self._open_files.limit}, {self._open_files.in_use} in use"
        )
        if unstarted := self._load.unstarted:
            text += f", {unstarted * START_DESCRIPTORS} reserved for runs that have not started their process yet"
        return f"{text})"

    def check(self) -> None:
        """Check now, and report a change."""
        self.close()
        now_s = asyncio.get_running_loop().time()
        if not self.has_room:
            if self._no_room_since_s is None:
                self._no_room_since_s = now_s
            if self._short_at_s is None:
                self._on_short(f"{self.summary}; runs held: {len(self._load)}")
            self._short_at_s = now_s
        else:
            self._no_room_since_s = None
            if self._short_at_s is not None and now_s >= self._short_at_s + FREED_AFTER_S:
                self._short_at_s = None
                self._on_freed()
        if self._short_at_s is not None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self.check)

    def close(self) -> None:
        """Stop watching, until the next check."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _left(self) -> int:
        left = self._open_files.for_runs - self._open_files.in_use
        if left >= (len(self._load) + 1) * START_DESCRIPTORS:
            return left - len(self._load) * START_DESCRIPTORS  # no need to count
        return left - self._load.unstarted * START_DESCRIPTORS


def check_limit(max_runs: int | None, open_files: OpenFiles = OPEN_FILES) -> None:
    """Warn if there are too few descriptors for `max_runs`. Call at the start, when all but runs have opened theirs.

    Raises `UsageError` if there are too few for a single run.
    """
    left = open_files.for_runs - open_files.in_use
    if left < START_DESCRIPTORS:
        needed = 2 * (open_files.in_use + START_DESCRIPTORS + OWN_DESCRIPTORS)
        raise UsageError(
            f"the limit of open files is {open_files.limit}, too low for a single run: raise it to {needed} at least "
            "(`ulimit -n`, a container's or service's `nofile` limit)"
        )
    if max_runs is not None and max_runs * RUN_DESCRIPTORS > left:
        logger.warning(
            "the limit of open files (`ulimit -n`) is {}, enough for about {} runs at once and not for --max-runs {}: "
            "raise it, or expect that further runs wait",
            open_files.limit,
            left // RUN_DESCRIPTORS,
            max_runs,
        )
