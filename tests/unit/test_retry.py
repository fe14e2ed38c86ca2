"""The waits of a policy. Sleep, clock and jitter are replaced, so that no test waits."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator

import backoff
import pytest

from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.util.retry import RetryPolicy, Waits, retrying
from tests.support.virtual_time import in_virtual_time


class Passing(Exception):
    """A transient failure."""


class Lasting(Exception):
    """A final failure."""


class Clock:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def now(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.slept_s.append(wait_s)
        self.now_s += wait_s


class Attempts:
    """Fails with the given failures, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self._failures:
            raise self._failures.pop(0)
        return "done"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def _longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each wait as long as its bound."""
    monkeypatch.setattr(backoff, "full_jitter", lambda bound_s: bound_s)


def passing(count: int) -> list[Exception]:
    return [Passing(str(number)) for number in range(count)]


async def retried(clock: Clock, policy: RetryPolicy, attempt: Callable[[], Awaitable[str]]) -> str:
    return await retrying(attempt, policy, (Passing,), sleep=clock.sleep, now=clock.now)


@pytest.mark.usefixtures("_longest_waits")
async def test_the_bounds_double_up_to_the_cap(clock: Clock) -> None:
    attempts = Attempts(*passing(7))
    assert await retried(clock, RetryPolicy(base_s=0.5, cap_s=5), attempts) == "done"
    assert clock.slept_s == [0.5, 1, 2, 4, 5, 5, 5]
    assert attempts.made == 8


@pytest.mark.usefixtures("_longest_waits")
def test_a_cap_below_the_base_bounds_the_first_wait_too() -> None:
    waits = Waits(RetryPolicy(base_s=3, cap_s=1))
    assert [waits.next_s() for _ in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("_longest_waits")
def test_a_reset_begins_the_waits_anew() -> None:
    waits = Waits(RetryPolicy(base_s=1, cap_s=100))
    assert [waits.next_s() for _ in range(3)] == [1, 2, 4]
    waits.reset()
    assert [waits.next_s() for _ in range(2)] == [1, 2]


@pytest.mark.usefixtures("_longest_waits")
def test_a_long_outage_does_not_overflow() -> None:
    waits = Waits(RetryPolicy(base_s=0.2, cap_s=15))
    assert [waits.next_s() for _ in range(5000)][-1] == 15


def test_a_wait_is_random_between_0_and_the_bound() -> None:
    drawn = [Waits(RetryPolicy(base_s=8, cap_s=8)).next_s() for _ in range(400)]
    assert all(0 <= wait_s <= 8 for wait_s in drawn)
    assert {int(wait_s) for wait_s in drawn} == set(range(8))


async def test_a_success_at_once_does_not_wait(clock: Clock) -> None:
    assert await retried(clock, RetryPolicy(base_s=1, cap_s=1), Attempts()) == "done"
    assert clock.slept_s == []


async def test_a_final_failure_is_raised_at_once(clock: Clock) -> None:
    attempts = Attempts(Passing(), Lasting("no"), Passing())
    with pytest.raises(Lasting, match="no"):
        await retried(clock, RetryPolicy(base_s=1, cap_s=1), attempts)
    assert attempts.made == 2


@pytest.mark.usefixtures("_longest_waits")
async def test_no_attempt_begins_after_the_limit(clock: Clock) -> None:
    attempts = Attempts(*passing(100))
    with pytest.raises(Passing, match="3"):
        await retried(clock, RetryPolicy(base_s=1, cap_s=100, limit_s=10), attempts)
    assert clock.slept_s == [1, 2, 4]


@pytest.mark.usefixtures("_longest_waits")
async def test_the_time_of_attempts_counts_towards_the_limit(clock: Clock) -> None:
    async def slow() -> str:
        clock.now_s += 4
        raise Passing

    with pytest.raises(Passing):
        await retried(clock, RetryPolicy(base_s=1, cap_s=1, limit_s=10), slow)
    assert clock.slept_s == [1, 1]


@pytest.mark.usefixtures("_longest_waits")
async def test_each_wait_is_reported_with_its_failure_before_it_begins(clock: Clock) -> None:
    received: list[tuple[str, float, int]] = []
    await retrying(
        Attempts(*passing(2)),
        RetryPolicy(base_s=1, cap_s=9),
        (Passing,),
        on_wait=lambda failure, wait_s: received.append((str(failure), wait_s, len(clock.slept_s))),
        sleep=clock.sleep,
        now=clock.now,
    )
    assert received == [("0", 1, 0), ("1", 2, 1)]


@in_virtual_time
async def test_the_limit_uses_the_clock_of_the_sleep() -> None:
    with pytest.raises(Passing):
        await retrying(Attempts(*passing(10_000)), RetryPolicy(base_s=1, cap_s=9, limit_s=600), (Passing,))
    assert 500 < asyncio.get_running_loop().time() <= 600


@pytest.mark.usefixtures("_longest_waits")
def test_the_conflict_policy_outlasts_the_removal_of_a_killed_runner() -> None:
    """Stale after 120 s, removed after 600 s, looked at each 30 s (section 1.1)."""
    policy = POLICIES.registration_conflict
    waits = Waits(policy)
    begins = list(itertools.takewhile(lambda at_s: at_s <= (policy.limit_s or 0), _sums(waits)))
    assert begins[-1] > 600 + 30
    assert policy.cap_s == 3, "docs/operations.md and README.md name the sum of this and the coordinator's 150 s"


def _sums(waits: Waits) -> Iterator[float]:
    return itertools.accumulate(iter(waits.next_s, -1.0))
