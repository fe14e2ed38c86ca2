"""A low limit on open files for the process that runs the tests."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def soft_limit(limit: int) -> Iterator[None]:
    """Each descriptor that is opened inside has a number below `limit`."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """At most `count` further descriptors can be opened inside."""
    lowest = os.dup(0)
    os.close(lowest)
    with soft_limit(lowest + count):
        yield
