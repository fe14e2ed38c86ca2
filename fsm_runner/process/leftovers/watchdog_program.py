"""The program of the watchdog: a file that a bare interpreter runs, so it imports nothing but what is built in or tiny.

    python -I -S -E warden_program.py NAME=VALUE OWNER_PART

Waits for the end of its standard input, then ends every process with exactly this entry in its environment, or with a
rlimit tag of this owner (`rlimit tag.py`), and all that is below such a process, until a look finds none.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

STUCK_S = 30.0
"""How long the processes may stay the same before it gives up: a process that the kernel holds does not end."""
LONGEST_GAP_S = 1.0
"""At most this much of the time between two checks counts as time without a change."""
PAUSE_S = 0.01
PASSES = 100
"""The most passes in a row that only stop processes; then those that were found are killed."""
TREE_BITS = 31

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main() -> None:
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    end_all(os.fsencode(sys.argv[1]), int(sys.argv[2]))


def end_all(entry: bytes, tag_prefix: int) -> None:
    """Stops until a look finds no further one, then kills: what is stopped starts nothing."""
    stopped: set[tuple[int, bytes]] = set()
    before: set[tuple[int, bytes]] = set()
    unchanged_s, looked_at = 0.0, time.monotonic()
    while unchanged_s < STUCK_S:
        freeze(tag_prefix)
        found = marked_trees(entry, tag_prefix)
        if not found:
            return
        new = found - stopped
        for identity in new or found:
            send(identity, signal.SIGSTOP if new else signal.SIGKILL)
        stopped |= new
        now = time.monotonic()
        # This process may have been stopped in between, and then the others had no time to end either.
        unchanged_s = unchanged_s + min(now - looked_at, LONGEST_GAP_S) if found == before else 0.0
        before, looked_at = found, now
        if not new:
            time.sleep(PAUSE_S)


def freeze(tag_prefix: int) -> None:
    """Stops each process with a rlimit tag of this owner, until a pass finds no further one.

    That takes few system calls, so it overtakes processes that start others faster than `marked_trees` reads them.
    """
    looked_at = {os.getpid()}
    for _ in range(PASSES):
        has_found = False
        for pid in reversed(process_ids()):
            if pid not in looked_at:
                looked_at.add(pid)
                if has_tag_prefix(pid, tag_prefix):
                    has_found = True
                    send_if(pid, signal.SIGSTOP, partial(has_tag_prefix, pid, tag_prefix))
        if not has_found:
            return


def process_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib is not tiny


def marked_trees(entry: bytes, tag_prefix: int) -> set[tuple[int, bytes]]:
    """Id and start of each process that has the mark or the rlimit tag, or that is below one that has."""
    started: dict[int, bytes] = {}
    below: dict[int, list[int]] = {}
    found = []
    for pid in process_ids():
        fields = status(pid)
        if len(fields) < 20 or fields[0] in (b"Z", b"X") or pid == os.getpid():
            continue
        started[pid] = fields[19]
        below.setdefault(int(fields[1]), []).append(pid)
        if has_tag_prefix(pid, tag_prefix) or entry in content(f"/proc/{pid}/environ").split(b"\0"):
            found.append(pid)
    for pid in found:
        found += below.pop(pid, [])
    return {(pid, started[pid]) for pid in found}


def has_tag_prefix(pid: int, tag_prefix: int) -> bool:
    return rlimit_tag(pid) >> TREE_BITS == tag_prefix


def rlimit_tag(pid: int) -> int:
    """0 where it cannot be read."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[0]
    except PermissionError:  # another user's, and we have not all of root's rights: everybody may read its limits
        soft = content(f"/proc/{pid}/limits").partition(b"Max realtime timeout")[2].split()[:1]
        return int(soft[0]) if soft and soft[0].isdigit() else 0
    except OSError:
        return 0


def status(pid: int) -> list[bytes]:
    """From the state on: state, parent, group, session …, at 19 the start in clock ticks."""
    return content(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def content(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # it has ended, or is another user's
        return b""
    try:
        return b"".join(iter(lambda: os.read(file, 65_536), b""))
    except OSError:
        return b""
    finally:
        os.close(file)


def send(identity: tuple[int, bytes], number: int) -> None:
    """Send a signal to this process and to no other that has got its id."""
    pid, started = identity
    send_if(pid, number, lambda: status(pid)[19:20] == [started])


def send_if(pid: int, number: int, is_meant: Callable[[], bool]) -> None:
    """Send a signal if `is_meant` is true once a handle is open, so that both concern the same process."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if is_meant():
            signal.pidfd_send_signal(handle, number)
    except OSError:  # it has ended, or may not be signalled
        return
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
