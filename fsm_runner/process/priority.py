"""Lets the runner work while its executors keep every processor busy."""

import os
from contextlib import suppress

LOWERED_BY = 5
"""As a nice value. Each step gives the runner about a quarter more CPU time where processors are short, so 5 steps give
it three times as much. Where a processor is free, executors lose nothing."""
_LEAST_URGENT = 19


def lower_priority(group: int) -> None:
    """Of the process group that was just started, and so of whatever it starts.

    The runner cannot raise its own priority without rights that a container seldom has. Executors of another user keep
    theirs where the runner lacks CAP_SYS_NICE.
    """
    with suppress(OSError):  # it has ended, or may not be changed
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PGRP, group, min(own + LOWERED_BY, _LEAST_URGENT))
