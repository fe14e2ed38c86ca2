"""An actor runs activities and time limits while their states last. Time is virtual here."""

import asyncio
import itertools
import tomllib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from fsm_runner.errors import FsmRunnerError
from fsm_runner.machine.check import check
from fsm_runner.machine.decoder import decode
from fsm_runner.machine.engine import Answer, Cause, Machine, Step, UnexpectedEvent
from fsm_runner.runtime.actors.actor import Activity, Actor, TimeLimitExceeded
from tests.support.logs import log_lines
from tests.support.record import InstantRecord
from tests.support.virtual_time import run_virtually

JOB = """
name = "job"
initial = "working"

[events]
again = "The work is to begin anew."
rest = "A pause."
quit = "No more of it."

[states.working]
invoke = "work"
timeout_s = 10
retry = { times = 3, base_s = 0.5, cap_s = 1 }
on_done = "worked"
on_error = "broke"
on_timeout = "took_too_long"

[states."having a rest"]
invoke = "doze"
timeout_s = "patience_s"
on_done = "woke"
on_timeout = "overslept"
on_error = "had_a_nightmare"
ignore = ["rest"]

[states.finished]
final = true
tone = "neutral"
outcome = "finished"
[states.failed]
final = true
tone = "neutral"
outcome = "failed"
[states.dismissed]
final = true
tone = "neutral"
outcome = "dismissed"

[[transitions]]
from = "working"
event = "worked"
to = "finished"
[[transitions]]
from = "working"
event = "broke"
to = "failed"
[[transitions]]
from = "working"
event = "took_too_long"
to = "failed"
[[transitions]]
from = "working"
event = "rest"
to = "having a rest"
[[transitions]]
from = ["working", "having a rest"]
event = "again"
to = "working"
[[transitions]]
from = "having a rest"
event = "woke"
to = "working"
[[transitions]]
from = "having a rest"
event = "overslept"
to = "working"
[[transitions]]
from = "having a rest"
event = "had_a_nightmare"
to = "failed"
[[transitions]]
from = ["working", "having a rest"]
event = "quit"
to = "dismissed"
"""


class Passed(NamedTuple):
    step: Step
    payload: object
    at_s: float


class Worker(Actor):
    """Records its steps."""

    def __init__(self, work: Activity, doze: Activity, give_up_after_s: float | None = None) -> None:
        decoded = decode(tomllib.loads(JOB))
        assert not decoded.problems
        assert check(decoded.spec) == ()
        self.record = InstantRecord()
        super().__init__(
            "job 1",
            Machine(decoded.spec),
            {"work": work, "doze": doze},
            {"patience_s": give_up_after_s},
            recorder=self.record,
        )
        self.passed: list[Passed] = []

    def on_step(self, step: Step, payload: object) -> None:
        self.passed.append(Passed(step, payload, asyncio.get_running_loop().time()))

    @property
    def events(self) -> list[str]:
        return [passed.step.event for passed in self.passed]

    @property
    def last(self) -> Passed:
        return self.passed[-1]


async def nothing() -> None:
    pass


async def for_ever() -> None:
    await asyncio.Event().wait()


class Traced:
    """An activity that lasts, and records its begins and ends."""

    def __init__(self, last_s: float = 1e6, value: object = None) -> None:
        self.began_at: list[float] = []
        self.cancelled_at: list[float] = []
        self._last_s = last_s
        self._value = value

    async def __call__(self) -> object:
        now = asyncio.get_running_loop().time
        self.began_at.append(now())
        try:
            await asyncio.sleep(self._last_s)
        except asyncio.CancelledError:
            self.cancelled_at.append(now())
            raise
        return self._value


def lived(make: Callable[[], Worker], *posts: tuple[float, str]) -> Worker:
    """Return the worker after its life, with events posted at their times. The test fails if tasks are left."""

    async def live() -> Worker:
        worker = make()
        loop = asyncio.get_running_loop()
        for at_s, event in posts:
            loop.call_at(at_s, worker.post, event, f"posted at {at_s}")
        assert await worker.run() == worker.state
        return worker

    return run_virtually(live)


def failing(*failures: Exception, value: object = "done at last") -> tuple[Activity, list[float]]:
    """An activity that fails in turn with each of these, and the times of its attempts."""
    left, attempts = list(failures), list[float]()

    async def work() -> object:
        attempts.append(asyncio.get_running_loop().time())
        if left:
            raise left.pop(0)
        return value

    return work, attempts


def test_an_activity_starts_with_its_state_and_its_value_is_the_payload_of_its_end() -> None:
    worker = lived(lambda: Worker(Traced(3, value={"a": 1}), nothing))
    assert worker.state == "finished"
    assert worker.last == (Step("worked", "working", "finished", Answer.TAKEN, Cause.DONE), {"a": 1}, 3)


def test_an_activity_is_cancelled_when_its_state_is_left() -> None:
    work, doze = Traced(), Traced()
    worker = lived(lambda: Worker(work, doze), (1, "rest"), (3, "quit"))
    assert worker.state == "dismissed"
    assert (work.began_at, work.cancelled_at) == ([0], [1])
    assert (doze.began_at, doze.cancelled_at) == ([1], [3])


def test_a_posted_event_has_its_reason_as_payload() -> None:
    worker = lived(lambda: Worker(for_ever, nothing), (1, "quit"))
    assert worker.last.payload == "posted at 1"


def test_an_ignored_event_leaves_the_activity_and_its_time_limit_alone() -> None:
    doze = Traced(2)
    worker = lived(lambda: Worker(Traced(5), doze, give_up_after_s=3), (1, "rest"), (2, "rest"), (2.5, "rest"))
    assert worker.events == ["rest", "woke", "worked"]
    assert doze.cancelled_at == []
    assert worker.passed[1].at_s == 3


def test_a_state_that_is_entered_again_begins_anew_with_its_whole_time_limit() -> None:
    work = Traced()
    worker = lived(lambda: Worker(work, nothing), (4, "again"), (8, "again"))
    assert work.began_at == [0, 4, 8]
    assert worker.last.at_s == 18
    assert worker.state == "failed"


def test_a_time_limit_ends_the_state_and_says_so() -> None:
    work = Traced()
    worker = lived(lambda: Worker(work, nothing))
    assert worker.state == "failed"
    assert work.cancelled_at == [10]
    assert isinstance(worker.last.payload, TimeLimitExceeded)
    assert str(worker.last.payload) == "working: not done within the time limit of 10 s"


def test_a_time_limit_may_be_a_setting() -> None:
    worker = lived(lambda: Worker(Traced(5), for_ever, give_up_after_s=7), (1, "rest"))
    assert [(passed.step.event, passed.at_s) for passed in worker.passed] == [
        ("rest", 1),
        ("overslept", 8),
        ("worked", 13),
    ]
    assert str(worker.passed[1].payload) == "having a rest: not done within the time limit of 7 s (patience)"


def test_a_setting_may_say_that_there_is_no_time_limit() -> None:
    worker = lived(lambda: Worker(Traced(5), for_ever, give_up_after_s=None), (1, "rest"), (1e6, "quit"))
    assert worker.last.at_s == 1e6


def test_a_result_that_comes_after_its_state_was_left_is_dropped() -> None:
    """The activity ends in the same turn of the loop in which the event arrives that ends its state."""

    async def live() -> Worker:
        ended = asyncio.Event()
        worker = Worker(lambda: _until(ended), for_ever)
        living = asyncio.create_task(worker.run())
        await asyncio.sleep(1)
        ended.set()
        worker.post("rest")
        await asyncio.sleep(1)
        assert worker.state == "having a rest"
        worker.post("quit")
        await living
        return worker

    assert run_virtually(live).events == ["rest", "quit"]


async def _until(ended: asyncio.Event) -> None:
    await ended.wait()


def test_the_result_of_an_activity_that_ignores_its_cancellation_is_dropped() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        return "done nevertheless"

    worker = lived(lambda: Worker(stubborn, Traced()), (1, "rest"), (2, "again"), (3, "rest"), (20, "quit"))
    assert worker.events == ["rest", "again", "rest", "quit"]


def test_the_end_waits_for_activities_that_are_being_cancelled() -> None:
    tidy_at: list[float] = []

    async def tidying() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(5)
            tidy_at.append(asyncio.get_running_loop().time())

    worker = lived(lambda: Worker(tidying, nothing), (1, "quit"))
    assert worker.state == "dismissed"
    assert tidy_at == [6]


def test_an_os_error_is_tried_again_as_often_as_the_state_says() -> None:
    work, attempts = failing(OSError("first"), ConnectionResetError("second"), TimeoutError("third"))
    worker = lived(lambda: Worker(work, nothing))
    assert worker.state == "finished"
    assert worker.last.payload == "done at last"
    waits_s = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert len(waits_s) == 3
    assert all(0 <= wait_s <= bound_s for wait_s, bound_s in zip(waits_s, (0.5, 1, 1), strict=True))


def test_the_last_os_error_is_the_reason_of_the_failure() -> None:
    work, attempts = failing(*(OSError(str(number)) for number in range(9)))
    worker = lived(lambda: Worker(work, nothing))
    assert worker.state == "failed"
    assert len(attempts) == 4
    assert str(worker.last.payload) == "3"


def test_a_state_without_retries_fails_with_its_first_os_error() -> None:
    doze, attempts = failing(OSError("no bed"))
    worker = lived(lambda: Worker(for_ever, doze), (1, "rest"))
    assert worker.events == ["rest", "had_a_nightmare"]
    assert len(attempts) == 1


def test_a_wait_between_attempts_ends_with_its_state() -> None:
    work, attempts = failing(*(OSError() for _ in range(9)))
    worker = lived(lambda: Worker(work, for_ever), (0, "rest"), (50, "quit"))
    assert worker.events == ["rest", "quit"]
    assert len(attempts) <= 1


def test_retries_do_not_outlast_the_time_limit() -> None:
    async def slow_to_fail() -> None:
        await asyncio.sleep(4)
        raise OSError

    worker = lived(lambda: Worker(slow_to_fail, nothing))
    assert worker.last.step.event == "took_too_long"
    assert worker.last.at_s == 10


def test_an_error_for_the_user_is_not_retried() -> None:
    work, attempts = failing(FsmRunnerError("this will not do"))
    worker = lived(lambda: Worker(work, nothing))
    assert worker.state == "failed"
    assert len(attempts) == 1
    assert str(worker.last.payload) == "this will not do"


async def divide() -> float:
    return 1 / 0


async def wait_for_what_was_cancelled() -> None:
    given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    given_up.cancel()
    await given_up


@pytest.mark.parametrize(
    ("broken", "kind"), [(divide, ZeroDivisionError), (wait_for_what_was_cancelled, asyncio.CancelledError)]
)
def test_a_broken_activity_is_a_failure_of_its_state_and_is_logged(
    broken: Callable[[], Awaitable[Any]], kind: type[BaseException]
) -> None:
    with log_lines() as lines:
        worker = lived(lambda: Worker(broken, nothing))
    assert worker.state == "failed"
    assert worker.last.at_s == 0
    assert isinstance(worker.last.payload, kind)
    assert any("job 1: work failed" in line for line in lines)


def test_an_activity_that_fails_while_it_is_cancelled_changes_nothing() -> None:
    async def breaks_late() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise ZeroDivisionError

    with log_lines() as lines:
        worker = lived(lambda: Worker(breaks_late, for_ever), (1, "rest"), (2, "quit"))
    assert worker.events == ["rest", "quit"]
    assert any("work failed" in line for line in lines)


def test_events_are_handled_in_the_order_in_which_they_were_posted() -> None:
    worker = lived(lambda: Worker(for_ever, for_ever), (1, "rest"), (1, "again"), (1, "rest"), (1, "rest"), (1, "quit"))
    assert worker.events == ["rest", "again", "rest", "quit"]


def test_an_event_that_is_posted_before_the_start_is_not_lost() -> None:
    async def live() -> Worker:
        worker = Worker(for_ever, nothing)
        worker.post("quit")
        await worker.run()
        return worker

    assert run_virtually(live).state == "dismissed"


def test_a_request_is_handled_at_once_and_after_the_events_that_are_queued() -> None:
    async def live() -> Worker:
        worker = Worker(for_ever, for_ever)
        running = asyncio.create_task(worker.run())
        assert worker.request("rest", None, "too early") is Answer.REJECTED
        await asyncio.sleep(0)
        worker.post("rest")
        assert worker.request("rest", None, "") is Answer.IGNORED
        assert worker.request("again", "a payload", "a reason") is Answer.TAKEN
        assert (worker.state, worker.last.payload) == ("working", "a payload")
        assert worker.record.steps[-1].reason == "a reason"
        assert worker.request("quit", None, "") is Answer.TAKEN
        await running
        assert worker.request("again", None, "too late") is Answer.REJECTED
        return worker

    assert run_virtually(live).events == ["rest", "again", "quit"]


def test_events_after_the_end_change_nothing() -> None:
    worker = lived(lambda: Worker(for_ever, nothing), (1, "quit"), (1, "rest"))
    worker.post("again")
    assert worker.events == ["quit"]
    assert worker.state == "dismissed"


def test_a_life_that_is_cancelled_ends_its_activity_before_it_returns() -> None:
    work = Traced()

    async def live() -> None:
        living = asyncio.create_task(Worker(work, nothing).run())
        await asyncio.sleep(2)
        living.cancel()
        with pytest.raises(asyncio.CancelledError):
            await living
        assert work.cancelled_at == [2]

    run_virtually(live)


def test_an_event_that_the_machine_does_not_know_ends_the_life_and_its_activity() -> None:
    work = Traced()

    async def live() -> None:
        worker = Worker(work, nothing)
        worker.post("explode")
        with pytest.raises(UnexpectedEvent, match="job: state 'working' has no answer to the event 'explode'"):
            await worker.run()

    run_virtually(live)


def test_activities_have_distinct_names() -> None:
    names: list[str] = []

    async def look() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    lived(lambda: Worker(look, nothing))
    assert names == ["job 1 work"]
