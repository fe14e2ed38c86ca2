"""The line to the coordinator: how often it is asked, what is made of its answers, and which of them come too late."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fsm_runner.coordinator import wire
from fsm_runner.coordinator.api import Polled, UnreadableRun
from fsm_runner.coordinator.client import CoordinatorClient
from fsm_runner.coordinator.faults import CoordinatorError, NotRegistered, Unreachable
from fsm_runner.coordinator.outbox import Outbox
from fsm_runner.coordinator.policy import POLL_HOLD_CAP_S, STALE_AFTER_S
from fsm_runner.coordinator.timestamps import EventClock
from fsm_runner.coordinator.transport import Answer
from fsm_runner.executors.port import Assignment, SessionChannel
from fsm_runner.lifecycle.channel import ChannelContext
from fsm_runner.lifecycle.link import CoordinatorLink, LinkTimes
from fsm_runner.lifecycle.machines import load_machine
from fsm_runner.lifecycle.run import RunContext
from fsm_runner.lifecycle.runs import Runs
from fsm_runner.lifecycle.script_sync import ScriptSync
from fsm_runner.lifecycle.sessions import Sessions
from tests.support.virtual_time import in_virtual_time

MACHINE = load_machine("run")
PROJECT_DIR = tempfile.gettempdir()
ME = "runner_me"
RUN = wire.Run(run_id="run_1", session_id="ses_1")
STOP = wire.StopRequest(run_id=RUN.run_id, session_id=RUN.session_id, runner_id=ME)
REGISTERED = wire.Registered(runner_id=ME, poll_timeout_seconds=30, heartbeat_interval_seconds=10)
REGISTRATION = wire.Registration(
    hostname="host", project_dir=PROJECT_DIR, executor_profile="fake", executor=wire.ExecutorInfo(type="t", command="c")
)
TIMES = LinkTimes(poll_timeout_s=30, heartbeat_interval_s=10)
POLLS_IN_10_S = 60
"""Of a coordinator that answers at once: the waits are half a second on average, so that a fifth are to be expected."""
HOT_LOOP_POLLS = 1000

PollAnswer = Polled | CoordinatorError | asyncio.Future[Polled]
"""What a poll is answered; a future where the answer takes its time."""


class FakeApi:
    """The coordinator. It answers polls as it is told, and holds those that come after."""

    url = "http://coordinator"

    def __init__(self, polls: Iterable[PollAnswer] = ()) -> None:
        self._polls = iter(polls)
        self.calls: list[str] = []
        """Of polls and look-ups, in order."""
        self.polled_at_s: list[float] = []
        self.hold_s: list[float] = []
        self.beaten: list[float] = []
        """The times at which a heartbeat was taken."""
        self.silent_until_s = 0.0
        """Heartbeats before this time are not answered."""
        self.stop_answers: list[CoordinatorError | list[wire.StopRequest]] = []
        self.delivered: list[str] = []
        self.answers: list[asyncio.Future[None]] = []
        """Of the next heartbeats and deliveries, which wait for them."""

    async def register(self, registration: wire.Registration) -> wire.Registered:
        return REGISTERED

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        assert len(self.polled_at_s) < HOT_LOOP_POLLS, "a hot loop of polls"
        self.calls.append("poll")
        self.polled_at_s.append(now_s())
        self.hold_s.append(hold_s)
        await asyncio.sleep(0)
        answer = next(self._polls, None) or asyncio.get_running_loop().create_future()
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer if isinstance(answer, Polled) else await answer

    async def stop_requests(self) -> list[wire.StopRequest]:
        self.calls.append("look up")
        answer = self.stop_answers.pop(0) if self.stop_answers else []
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def heartbeat(self, runner_id: str) -> None:
        if self.answers:
            await self.answers.pop(0)
        if now_s() < self.silent_until_s:
            raise Unreachable("502")
        self.beaten.append(now_s())

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> Answer:
        if self.answers:
            await self.answers.pop(0)
        self.delivered.append(path)
        return Answer(path, 200, b"{}")


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Endless:
    """An execution that only a stop ends, and its executor."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def wait(self) -> wire.CompletedSession:
        await self._stopped.wait()
        return "finished"

    async def stop(self) -> wire.StopSignal:
        self._stopped.set()
        return "SIGTERM"

    async def aclose(self) -> None:
        self._stopped.set()


class EndlessExecutor:
    def accept(self, run: wire.Run) -> None: ...

    async def prepare(self, assignment: Assignment) -> None: ...

    async def start(self, assignment: Assignment, session: SessionChannel) -> Endless:
        return Endless()


class Line:
    """A link at work, and what it has posted."""

    def __init__(self, api: FakeApi, times: LinkTimes, max_runs: int | None) -> None:
        # Link and client take the API's methods as they come.
        self.client = CoordinatorClient(api)  # type: ignore[arg-type]
        self.posts: list[str] = []
        context = RunContext(
            machine=MACHINE,
            executor=EndlessExecutor(),
            channels=ChannelContext(
                outbox=Outbox(self.client), clock=EventClock(), hostname="host", executor_profile="fake"
            ),
            project_dir=PROJECT_DIR,
            runner_values={},
            run_timeout_s=None,
            observe=lambda run, state, *, final: None,
        )
        self.runs = Runs(context, Sessions(), max_runs)
        self.scripts = ScriptSync(self.client, Path(PROJECT_DIR))
        self.link = CoordinatorLink(self.client, self.runs, self.scripts, self._post, times)

    def _post(self, event: str, reason: object) -> None:
        self.posts.append(event)

    async def register_again(self) -> None:
        self.link.set_registration(await self.client.register(REGISTRATION))


@asynccontextmanager
async def line(
    api: FakeApi, *, registered: wire.Registered = REGISTERED, times: LinkTimes = TIMES, max_runs: int | None = None
) -> AsyncIterator[Line]:
    """Registered and claiming. What polls or beats and breaks is raised at the end."""
    made = Line(api, times, max_runs)
    made.link.set_registration(registered)
    made.link.set_course(claiming=True, leaving=False)
    tasks = [asyncio.create_task(made.link.poll_forever()), asyncio.create_task(made.link.beat_forever())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        await made.runs.aclose()
        await made.scripts.aclose()


@pytest.mark.parametrize(
    ("named_s", "configured_s", "held_s"),
    [(30, 10, 30), (10, 30, 30), (1e9, 10, POLL_HOLD_CAP_S), (10, 1e9, POLL_HOLD_CAP_S)],
    ids=["named", "configured", "named without bound", "configured without bound"],
)
@in_virtual_time
async def test_a_poll_is_held_as_long_as_either_side_wishes_up_to_the_cap(
    named_s: float, configured_s: float, held_s: float
) -> None:
    api = FakeApi()
    registered = wire.Registered(runner_id=ME, poll_timeout_seconds=named_s)
    times = LinkTimes(poll_timeout_s=configured_s, heartbeat_interval_s=10)
    async with line(api, registered=registered, times=times):
        await asyncio.sleep(1)
    assert api.hold_s == [held_s]


@pytest.mark.parametrize(
    "answer",
    [
        Polled(),
        Polled(stop_sessions=(RUN.session_id,)),
        Polled(run=RUN),
        Polled(run=UnreadableRun("run_9", "no session")),
    ],
    ids=["nothing", "the same stop", "a known run", "an unreadable run"],
)
@in_virtual_time
async def test_polls_that_are_answered_at_once_and_bring_nothing_new_are_no_hot_loop(answer: Polled) -> None:
    api = FakeApi(itertools.repeat(answer))
    async with line(api):
        await asyncio.sleep(10)
    assert 3 < len(api.polled_at_s) < POLLS_IN_10_S


@in_virtual_time
async def test_new_runs_are_fetched_one_after_another_without_a_wait() -> None:
    api = FakeApi(Polled(run=wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}")) for number in range(100))
    async with line(api) as made:
        await asyncio.sleep(1)
        assert len(made.runs) == 100
    assert api.polled_at_s == [0.0] * 101


@in_virtual_time
async def test_the_waits_of_repeated_answers_are_forgotten_with_the_next_new_run() -> None:
    def answers() -> Iterator[Polled]:
        yield from itertools.repeat(Polled(), 20)
        for number in range(20):
            yield Polled(run=wire.Run(run_id=f"run_{number}", session_id=f"ses_{number}"))
            yield Polled()

    api = FakeApi(answers())
    async with line(api):
        await asyncio.sleep(60)
    assert len(api.polled_at_s) == 61
    # Each of the last 20 empty answers is the first one after a run: its wait is at most 0.05 s.
    assert api.polled_at_s[-1] - api.polled_at_s[20] <= 20 * 0.05


@pytest.mark.parametrize(("silent_s", "lost"), [(STALE_AFTER_S * 0.7, 0), (STALE_AFTER_S * 1.5, 1)])
@in_virtual_time
async def test_a_heartbeat_after_a_long_silence_says_that_the_registration_is_lost(silent_s: float, lost: int) -> None:
    api = FakeApi()
    api.silent_until_s = silent_s
    async with line(api) as made:
        await asyncio.sleep(silent_s + 60)
    assert len(api.beaten) > 1
    assert made.posts.count("registration_lost") == lost
    assert made.posts[-1] == "coordinator_answered"


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_poll_that_is_not_registered_is_ignored_where_a_registration_has_overtaken_it(registers: bool) -> None:
    answer: asyncio.Future[Polled] = asyncio.get_running_loop().create_future()
    api = FakeApi([answer])
    async with line(api) as made:
        await asyncio.sleep(1)
        if registers:
            await made.register_again()
        answer.set_exception(NotRegistered("401"))
        await asyncio.sleep(0.5)
        assert made.posts == ([] if registers else ["registration_lost"])


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_heartbeat_that_is_not_registered_is_ignored_where_a_registration_has_overtaken_it(
    registers: bool,
) -> None:
    api = FakeApi()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)
    async with line(api) as made:
        await asyncio.sleep(11)
        assert not api.answers
        if registers:
            await made.register_again()
        answer.set_exception(NotRegistered("401"))
        await asyncio.sleep(0.5)
        assert made.posts == ([] if registers else ["registration_lost"])


@pytest.mark.parametrize("registers", [True, False])
@in_virtual_time
async def test_a_report_that_is_not_registered_is_sent_again_and_asks_for_a_registration_where_none_has_come(
    registers: bool,
) -> None:
    api = FakeApi()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    api.answers.append(answer)
    told: list[str] = []
    client = CoordinatorClient(api, on_registration_lost=lambda: told.append("lost"))  # type: ignore[arg-type] # as above
    delivering = asyncio.create_task(client.deliver("/completed", b"{}"))
    await asyncio.sleep(1)
    if registers:
        await client.register(REGISTRATION)
    answer.set_exception(NotRegistered("401"))
    await delivering
    assert api.delivered == ["/completed"]
    assert told == ([] if registers else ["lost"])


@in_virtual_time
async def test_stops_are_looked_up_after_a_failed_poll_before_the_next_one() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.stop_answers = [[STOP]]
    async with line(api):
        await asyncio.sleep(20)
    assert api.calls == ["poll", "poll", "look up", "poll"]
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@in_virtual_time
async def test_stops_are_looked_up_until_an_answer_has_come() -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset"), Polled()])
    api.stop_answers = [Unreachable("reset"), [STOP]]
    async with line(api):
        await asyncio.sleep(20)
    assert api.calls == ["poll", "poll", "look up", "poll", "look up", "poll"]
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@in_virtual_time
async def test_a_stop_reaches_a_run_of_a_runner_that_is_full() -> None:
    api = FakeApi([Polled(run=RUN)])
    api.stop_answers = [[], [], [STOP]]
    async with line(api, max_runs=1):
        await asyncio.sleep(20)
    assert api.calls == ["poll", "look up", "look up", "look up", "poll"]
    assert api.delivered[-1] == f"/runner/runs/{RUN.run_id}/stopped"


@pytest.mark.parametrize("owner", ["runner_other", None])
@in_virtual_time
async def test_a_stop_of_another_runner_is_not_obeyed(owner: str | None) -> None:
    api = FakeApi([Polled(run=RUN), Unreachable("reset")])
    api.stop_answers = [[wire.StopRequest(run_id=RUN.run_id, session_id=RUN.session_id, runner_id=owner)]]
    async with line(api) as made:
        await asyncio.sleep(20)
        assert len(made.runs) == 1
    assert "look up" in api.calls
