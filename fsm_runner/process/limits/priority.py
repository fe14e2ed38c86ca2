"""Lets the runner work while its executors keep every processor busy."""

import os
from contextlib import suppress

LOWERED_BY = 5
"""Steps of the nice value. When processors are short, each step gives the runner about a quarter more CPU time, so five
steps give it three times as much. When a processor is free, executors lose nothing."""
_LEAST_URGENT = 19


def lower_priority(group: int) -> None:
    """Lower the priority of a process group that was just started. Its later children inherit it.

    The runner cannot raise its own priority instead without rights that a container seldom has. Executors of another
    user keep their priority if the runner lacks CAP_SYS_NICE.
    """
    with suppress(OSError):  # it has ended, or may not be changed
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PGRP, group, min(own + LOWERED_BY, _LEAST_URGENT))
