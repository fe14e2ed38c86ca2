"""A mark that a process keeps when it clears its environment: a resource limit with a value that nobody else sets.

Whatever a process starts inherits its limits. The one that is used (RLIMIT_RTTIME, Linux) is about the time of
processes with real-time scheduling, and the values are hundreds of thousands of years: they limit nothing.
"""

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from fsm_runner.process.tree import procfs

_LIMIT: int | None = getattr(resource, "RLIMIT_RTTIME", None)
_LIMIT_NAME = b"Max realtime timeout"
_TREE_BITS = 31
_OWNER_BITS = 31
_BASE = 1 << (_OWNER_BITS + _TREE_BITS)


def rlimit_tag(owner: str, tree: int) -> int:
    """Of what one process of a runner (`owner`) starts as its tree of this number."""
    return tag_prefix(owner) << _TREE_BITS | tree % (1 << _TREE_BITS)


def tag_prefix(owner: str) -> int:
    """What the rlimit tags of all trees of an owner begin with: the value without its lower 31 bits."""
    digest = hashlib.blake2b(owner.encode(errors="surrogateescape"), digest_size=8).digest()
    return (_BASE >> _TREE_BITS) | int.from_bytes(digest) % (1 << _OWNER_BITS)


def tag_prefix_of(value: int) -> int:
    return value >> _TREE_BITS


def rlimit_tag_of(pid: int) -> int | None:
    """None where it has none, or has ended."""
    if _LIMIT is None:
        return None
    try:
        value, _ = resource.prlimit(pid, _LIMIT)
    except PermissionError:
        value = _public_value(pid)
    except OSError:
        return None
    return value if value >= _BASE else None


def _public_value(pid: int) -> int:
    """Of another user's process, where we lack the right to its limits (CAP_SYS_RESOURCE): everybody may read them.

    0 where it has ended. Raises OSError where no descriptor is left.
    """
    return next((int(line[1]) for line in procfs.limits(pid) if line[0] == _LIMIT_NAME and line[1].isdigit()), 0)


@contextmanager
def with_rlimit_tag(value: int | None) -> Iterator[None]:
    """What is started in here has it. Nothing else may be started at the same time. None: nothing is changed."""
    if _LIMIT is None or value is None:
        yield
        return
    before, most = resource.getrlimit(_LIMIT)
    if most != resource.RLIM_INFINITY and value > most:  # somebody has set a limit that counts
        yield
        return
    resource.setrlimit(_LIMIT, (value, most))
    try:
        yield
    finally:
        resource.setrlimit(_LIMIT, (before, most))
