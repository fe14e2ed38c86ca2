"""Notices when too few file descriptors are left for a further run, and when there are enough again."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from fsm_runner.errors import UsageError
from fsm_runner.process.open_files import OPEN_FILES, OWN_DESCRIPTORS, OpenFiles

START_DESCRIPTORS = 8
"""Kept free for each run whose process is not started yet: those of the process, and those that the start needs."""
RUN_DESCRIPTORS = 5
"""What a run usually has: four of its process, and one of a connection to the gateway."""
LOOK_AGAIN_S = 1.0
"""The time between two looks while descriptors are short. Otherwise each start and end of a run is followed by one."""
FREED_SHARE = 8
FREED_RUNS = 10
"""Runs are claimed again when an eighth of the descriptors for runs is free, or those of ten runs: otherwise a busy
runner would change its state with each run."""


class Load(Protocol):
    """What uses the descriptors."""

    def __len__(self) -> int:
        """Runs that are held."""

    @property
    def unstarted(self) -> int:
        """Runs among them whose process is still to be started."""


class DescriptorWatch:
    """Calls `on_short` and `on_freed` when it changes whether a further run may be claimed. `close` ends it."""

    def __init__(self, load: Load, open_files: OpenFiles = OPEN_FILES) -> None:
        self.on_short: Callable[[str], None] = lambda _: None
        """Given the reason."""
        self.on_freed: Callable[[], None] = lambda: None
        self._load = load
        self._open_files = open_files
        self._is_short = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether there are descriptors for one run more, when all that are held have started their processes."""
        return self._left >= START_DESCRIPTORS

    def look(self) -> None:
        """Check now. Calls `on_short` or `on_freed` after a change."""
        self._stop_timer()
        if not self._is_short and not self.has_room:
            self._is_short = True
            self.on_short(
                f"{self._open_files.in_use} of {self._open_files.limit} descriptors (`ulimit -n`) are in use, "
                f"{self._open_files.for_runs} are for runs; runs held: {len(self._load)}"
            )
        elif self._is_short and self._has_enough:
            self._is_short = False
            self.on_freed()
        if self._is_short:
            self._timer = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self.look)

    def close(self) -> None:
        """May be repeated."""
        self._stop_timer()

    @property
    def _left(self) -> int:
        left = self._open_files.for_runs - self._open_files.in_use
        if left >= (len(self._load) + 1) * START_DESCRIPTORS:
            return left - len(self._load) * START_DESCRIPTORS  # no need to count
        return left - self._load.unstarted * START_DESCRIPTORS

    @property
    def _has_enough(self) -> bool:
        if len(self._load) == 0:
            return self.has_room
        wanted = min(self._open_files.for_runs // FREED_SHARE, FREED_RUNS * START_DESCRIPTORS)
        return self._left >= max(wanted, START_DESCRIPTORS)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def check_limit(max_runs: int | None, open_files: OpenFiles = OPEN_FILES) -> None:
    """At the start, when everything but runs has its descriptors. Warns where there are too few for `max_runs`.

    Raises `UsageError` where there are too few for a single run.
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
