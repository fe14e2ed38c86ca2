"""Notices when too few file descriptors are left for a further run, and when there are enough again."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from fsm_runner.errors import UsageError
from fsm_runner.process.limits.open_files import OPEN_FILES, OWN_DESCRIPTORS, OpenFiles

START_DESCRIPTORS = 8
"""Kept free for each run whose process is not started yet: those of the process, and those that the start needs."""
RUN_DESCRIPTORS = 5
"""What a run usually has: four of its process, and one of a connection to the gateway."""
LOOK_AGAIN_S = 1.0
"""The time between two looks while descriptors are short. Otherwise each start and end of a run is followed by one."""
FREED_AFTER_S = 5.0
"""A shortage ends when there has been room for a further run for this long. A busy runner would change its state with
each run otherwise. Nothing waits for it, since runs are also claimed during a shortage as soon as there is room."""

LASTING_AFTER_S = 5.0
"""A lack of room that has lasted this long does not pass by itself. A shorter one may: connections hold descriptors for
a moment when many executors report at once."""


class Load(Protocol):
    """What uses the descriptors."""

    def __len__(self) -> int:
        """Runs that are held."""

    @property
    def unstarted(self) -> int:
        """Runs among them whose process is still to be started."""


class DescriptorWatch:
    """Calls `on_short` when a shortage of descriptors begins, `on_freed` when it is over. `close` ends it."""

    def __init__(self, load: Load, open_files: OpenFiles = OPEN_FILES) -> None:
        self.on_short: Callable[[str], None] = lambda _: None
        """Given the reason."""
        self.on_freed: Callable[[], None] = lambda: None
        self._load = load
        self._open_files = open_files
        self._short_at_s: float | None = None
        """When descriptors were last found to be short; None: there is no shortage."""
        self._no_room_since_s: float | None = None
        """When the looks that found no room began; None: the last one found some."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether there are descriptors for one run more, when all that are held have started their processes."""
        return self._left >= START_DESCRIPTORS

    @property
    def lacks_room_for_good(self) -> bool:
        """Whether there has been no room for `LASTING_AFTER_S`."""
        since_s = self._no_room_since_s
        return since_s is not None and asyncio.get_running_loop().time() >= since_s + LASTING_AFTER_S

    @property
    def state(self) -> str:
        """What a run needs and what there is, for people."""
        text = (
            f"a run needs {START_DESCRIPTORS} file descriptors; free of the {self._open_files.for_runs} for runs: "
            f"{max(0, self._left)} (`ulimit -n` {self._open_files.limit}, {self._open_files.in_use} in use"
        )
        if unstarted := self._load.unstarted:
            text += f", {unstarted * START_DESCRIPTORS} reserved for runs that have not started their process yet"
        return f"{text})"

    def look(self) -> None:
        """Check now. Calls `on_short` or `on_freed` after a change."""
        self._stop_timer()
        now_s = asyncio.get_running_loop().time()
        if self.has_room:
            self._no_room_since_s = None
        elif self._no_room_since_s is None:
            self._no_room_since_s = now_s
        if self._no_room_since_s is not None:
            if self._short_at_s is None:
                self.on_short(f"{self.state}; runs held: {len(self._load)}")
            self._short_at_s = now_s
        elif self._short_at_s is not None and now_s >= self._short_at_s + FREED_AFTER_S:
            self._short_at_s = None
            self.on_freed()
        if self._short_at_s is not None:
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
