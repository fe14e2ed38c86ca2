"""Trying again: the one place where a failed call turns into a wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import backoff
import msgspec

Value = TypeVar("Value")
Sleep = Callable[[float], Awaitable[None]]
OnWait = Callable[[Exception, float], None]
"""Told the failure and the seconds until the next attempt."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Waits are drawn between nothing and a bound that doubles from `base_s` up to `cap_s` (full jitter)."""

    base_s: float
    cap_s: float
    times: int | None = None
    """Attempts after the first one; None: no bound."""
    limit_s: float | None = None
    """No further attempt begins this long after the first one began; None: no bound."""


class Waits:
    """The waits of one series of failures, as a policy has them."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """What had failed works again."""
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
    """Call `attempt` until it succeeds, fails for good or the policy is used up; then its last failure is raised.

    `now` and `sleep` are of one clock: the event loop's, where none is given.
    """
    waits = Waits(policy)
    now = now or asyncio.get_running_loop().time
    began = now()
    failures = 0
    while True:
        try:
            return await attempt()
        except transient as failure:
            failures += 1
            wait_s = waits.next_s()
            if _used_up(policy, failures, now() + wait_s - began):
                raise
            if on_wait is not None:
                on_wait(failure, wait_s)
        await sleep(wait_s)


def _used_up(policy: RetryPolicy, failures: int, next_attempt_after_s: float) -> bool:
    if policy.times is not None and failures > policy.times:
        return True
    return policy.limit_s is not None and next_attempt_after_s > policy.limit_s
