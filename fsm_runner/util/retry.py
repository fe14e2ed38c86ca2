"""Retries with exponential backoff and full jitter."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import backoff
import msgspec

Value = TypeVar("Value")
Sleep = Callable[[float], Awaitable[None]]
OnWait = Callable[[Exception, float], None]
"""Called with the failure and the seconds until the next attempt."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Each wait is random between 0 and a bound that doubles from `base_s` up to `cap_s` (full jitter)."""

    base_s: float
    cap_s: float
    limit_s: float | None = None
    """No attempt begins later than this after the first one; None: no limit."""


class Waits:
    """The waits of a policy for one series of failures."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """Begin a new series, after a success."""
        self._bounds = backoff.expo(factor=self._policy.base_s, max_value=self._policy.cap_s)
        next(self._bounds)

    def next_s(self) -> float:
        return backoff.full_jitter(next(self._bounds))


async def retrying(
    attempt: Callable[[], Awaitable[Value]],
    policy: RetryPolicy,
    transient: tuple[type[Exception], ...],
    *,
    on_wait: OnWait | None = None,
    sleep: Sleep = asyncio.sleep,
    now: Callable[[], float] | None = None,
) -> Value:
    """Call `attempt` until it succeeds. Raise its last failure at the limit of the policy, and any other at once.

    `now` and `sleep` must use the same clock. The default is that of the event loop.
    """
    waits = Waits(policy)
    now = now or asyncio.get_running_loop().time
    started_at = now()
    while True:
        try:
            return await attempt()
        except transient as failure:
            wait_s = waits.next_s()
            if policy.limit_s is not None and now() + wait_s - started_at > policy.limit_s:
                raise
            if on_wait is not None:
                on_wait(failure, wait_s)
        await sleep(wait_s)
