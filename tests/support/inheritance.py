"""Programs that are started with closed descriptors, ignored signals and blocked signals."""

import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

_WRAPPER = """
import os, signal, sys
closed, ignored, blocked = (list(map(int, filter(None, word.split(",")))) for word in sys.argv[1:4])
for number in ignored:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
for descriptor in closed:
    os.close(descriptor)
os.execvp(sys.argv[4], sys.argv[4:])
"""


def inheriting(
    command: Sequence[str],
    *,
    closed: Iterable[int] = (),
    ignored: Iterable[signal.Signals] = (),
    blocked: Iterable[signal.Signals] = (),
) -> list[str]:
    """The command line of a process that becomes `command` with this state."""
    lists = (",".join(str(int(number)) for number in numbers) for numbers in (closed, ignored, blocked))
    return [sys.executable, "-IS", "-c", _WRAPPER, *lists, *command]


def may_unshare() -> bool:
    """Whether a process may have a process namespace of its own, in which it is process 1."""
    if sys.platform != "linux":
        return False
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
