"""The rlimit tag: a resource limit with an unusual value, which a process keeps if it clears its environment.

Every process inherits the limits of its parent. RLIMIT_RTTIME (Linux) limits the time of processes with real-time
scheduling, and the tags are values of hundreds of thousands of years, so they limit nothing.

The upper bits of a tag are a prefix, a hash of the runner tag; the lower 31 bits are the number of the tree.

The watchdog's bare interpreter imports this module, so it uses only small modules of the standard library.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from fsm_runner.process.tree import procfs

_LIMIT: int | None = getattr(resource, "RLIMIT_RTTIME", None)
_LIMIT_NAME = b"Max realtime timeout"
_TREE_BITS = 31
_PREFIX_BITS = 31
_BASE = 1 << (_PREFIX_BITS + _TREE_BITS)


def rlimit_tag(runner_tag: str, tree: int) -> int:
    """The tag of everything that a runner process starts in its tree with this number."""
    return tag_prefix(runner_tag) << _TREE_BITS | tree % (1 << _TREE_BITS)


def tag_prefix(runner_tag: str) -> int:
    """The common prefix of the rlimit tags of all trees of a runner process."""
    import hashlib  # large, and the watchdog does not need it

    digest = hashlib.blake2b(runner_tag.encode(errors="surrogateescape"), digest_size=8).digest()
    return (_BASE >> _TREE_BITS) | int.from_bytes(digest) % (1 << _PREFIX_BITS)


def tag_prefix_of(value: int) -> int:
    return value >> _TREE_BITS


def rlimit_tag_of(pid: int) -> int | None:
    """None if the process has no tag or has ended. Raises OSError if no descriptor is left."""
    if _LIMIT is None:
        return None
    try:
        value, _ = resource.prlimit(pid, _LIMIT)
    except PermissionError:  # another user's process, and this one lacks CAP_SYS_RESOURCE
        value = procfs.soft_limit(pid, _LIMIT_NAME)
    except OSError:
        return None
    return value if value >= _BASE else None


def tag_this_runner() -> None:
    """Give this process, a runner, a tag of its own, by which other runners recognize what is below it.

    No runner kills by this tag. What this process starts without a tag of its own inherits it.
    """
    if _LIMIT is None:
        return
    import secrets  # large, and the watchdog does not need it

    value, (_, hard) = rlimit_tag(f"the runner {secrets.token_hex(8)}", 0), resource.getrlimit(_LIMIT)
    if hard == resource.RLIM_INFINITY or value <= hard:
        resource.setrlimit(_LIMIT, (value, hard))


@contextmanager
def with_rlimit_tag(value: int | None) -> Iterator[None]:
    """Give the tag to the processes that are started inside. No other thread may start one meanwhile. None: no tag."""
    if _LIMIT is None or value is None:
        yield
        return
    soft, hard = resource.getrlimit(_LIMIT)
    has_room = hard == resource.RLIM_INFINITY or value <= hard  # otherwise a real limit is set
    resource.setrlimit(_LIMIT, (value if has_room else soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(_LIMIT, (soft, hard))
