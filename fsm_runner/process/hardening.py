"""Keeps other processes of the same user out of this one's memory and environment."""

import sys

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """From now on `/proc/PID/environ` and `mem` are root's alone, no debugger may attach, and no core is dumped.

    What is started from here is not hidden. On other systems than Linux nothing is.
    """
    if sys.platform == "linux":
        # Imported here because it takes longer than all else that process 1 of a container loads.
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
