"""A poller with a fake of the coordinator's API, in virtual time."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from fsm_runner.coordinator_client.api import Polled, UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused, Unreachable
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.executors.interface import Assignment
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.machines import load_machine
from fsm_runner.runtime.actors.run import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import PollTimes
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.control.heartbeat import Heartbeat
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.control.poller import Poller
from fsm_runner.scripts.sync import ScriptSync
from tests.support.record import InstantRecord

MACHINE, SESSION_MACHINE, POLLER_MACHINE = load_machine("run"), load_machine("session"), load_machine("poller")
PROJECT_DIR = tempfile.gettempdir()
ME = "runner_me"
RUN = wire.Run(run_id="run_1", session_id="ses_1")
STOP = wire.StopRequest(run_id=RUN.run_id, session_id=RUN.session_id, runner_id=ME)
REGISTERED = wire.Registered(runner_id=ME, poll_timeout_seconds=30, heartbeat_interval_seconds=10)
REGISTRATION = wire.Registration(
    hostname="host", project_dir=PROJECT_DIR, executor_profile="fake", executor=wire.ExecutorInfo(type="t", command="c")
)
TERMINAL_REPORTS = ("completed", "failed", "stopped")
TIMES = PollTimes(poll_timeout_s=30, heartbeat_interval_s=10)
HOT_LOOP_POLLS = 1000

PollAnswer = Polled | CoordinatorError | asyncio.Future[Polled]
"""The response to a poll; a future if the poll is held."""


class FakeApi:
    """Answers the given polls, and holds those that come after."""

    url = "http://coordinator"

    def __init__(self, polls: Iterable[PollAnswer] = ()) -> None:
        self._polls = iter(polls)
        self.calls: list[str] = []
        """The names of polls and look-ups, in order."""
        self.polled_at_s: list[float] = []
        self.hold_s: list[float] = []
        self.beaten: list[float] = []
        """The times of answered heartbeats."""
        self.silent_until_s = 0.0
        """Heartbeats before this time are not answered."""
        self.stop_answers: list[CoordinatorError | list[wire.StopRequest]] = []
        self.running: list[wire.Run | UnreadableRun] = []
        """The runs that the coordinator counts as started by this runner."""
        self.claim_answers: list[CoordinatorError | list[wire.Run | UnreadableRun]] = []
        self.asked_for_claims_at_s: list[float] = []
        self.states: dict[str, wire.RunState] = {}
        """The states of runs by id; other runs are running."""
        self.agents: dict[str, wire.JsonObject | CoordinatorError] = {}
        """The definitions of agents by name; other agents do not exist."""
        self.delivered: list[str] = []
        self.answers: list[asyncio.Future[None]] = []
        """Futures that the next heartbeats and deliveries wait for."""

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

    async def held(self, runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        assert runner_id == ME
        if status == "running":
            return self.running
        self.calls.append("claims")
        self.asked_for_claims_at_s.append(now_s())
        answer = self.claim_answers.pop(0) if self.claim_answers else []
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def agent(self, name: str, form: type[wire.JsonObject]) -> wire.JsonObject:
        self.calls.append(f"agent {name}")
        answer = self.agents.get(name, Refused("Agent not found", 404))
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def run_state(self, run_id: str) -> wire.RunState:
        return self.states.get(run_id, wire.RunState(status="running"))

    async def heartbeat(self, runner_id: str) -> None:
        if self.answers:
            await self.answers.pop(0)
        if now_s() < self.silent_until_s:
            raise Unreachable("502")
        self.beaten.append(now_s())

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> ApiResponse:
        if self.answers:
            await self.answers.pop(0)
        self.delivered.append(path)
        *_, subject, message = path.split("/")
        if message in TERMINAL_REPORTS:
            self.states[subject] = wire.RunState(status=message, error=msgspec.json.decode(body).get("error"))
        return ApiResponse(path, 200, b"{}")


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Endless:
    """An execution that only a stop ends, and its executor."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def wait(self) -> CompletedSession:
        await self._stopped.wait()
        return "finished"

    async def stop(self) -> StopSignal:
        self._stopped.set()
        return "SIGTERM"

    async def aclose(self) -> None:
        self._stopped.set()


class EndlessExecutor:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.assignments: dict[str, Assignment] = {}

    def accept(self, run: wire.Run) -> None: ...

    def starts_process(self, run: wire.Run) -> bool:
        return True

    async def prepare(self, assignment: Assignment) -> None: ...

    async def start(self, assignment: Assignment, session: SessionChannel) -> Endless:
        self.begun.append(assignment.run.run_id)
        self.assignments[assignment.run.run_id] = assignment
        return Endless()


class PollingRunner:
    """A poller with its heartbeat and outage timer, and what they have posted."""

    def __init__(
        self,
        api: FakeApi,
        times: PollTimes = TIMES,
        max_runs: int | None = None,
        outage_limit_s: float | None = None,
        *,
        has_history: bool = True,
    ) -> None:
        self.outage = OutageTimer(outage_limit_s, lambda reason: self._post("outage_too_long", reason))
        self.client = CoordinatorClient(
            api,  # type: ignore[arg-type]  # it has the methods that are called
            now=now_s,
            on_unanswered=self.outage.unanswered,
            on_answered=self.outage.answered,
        )
        self.posts: list[str] = []
        self.record = InstantRecord()
        self.executor = EndlessExecutor()
        self.outbox = Outbox(MessageSender(self.client), NoMessageStore())
        reporting = ReportingContext(outbox=self.outbox, clock=EventClock(), hostname="host", executor_profile="fake")
        session_context = SessionContext(
            machine=SESSION_MACHINE,
            reporting=reporting,
            record=self.record,
            run_timeout_s=None,
            session_idle_timeout_s=None,
        )
        context = RunContext(
            machine=MACHINE,
            executor=self.executor,
            reporting=reporting,
            record=self.record,
            look_up=self.client.look_up_run,
            project_dir=PROJECT_DIR,
            runner_values=lambda _: {},
            run_timeout_s=None,
            retry_interrupted=False,
            observer=Observer(),
        )
        self.sessions = SessionRegistry(session_context)
        self.runs = RunRegistry(context, self.sessions, max_runs)
        self.scripts = ScriptSync(self.client, Path(PROJECT_DIR))
        self.runner_tags = {"claims"}
        self.heartbeat = Heartbeat(self.client, self._post, times.heartbeat_interval_s)
        self.poller = Poller(
            POLLER_MACHINE,
            self.client,
            self.runs,
            self.scripts,
            self.heartbeat,
            lambda tag: tag in self.runner_tags,
            self._post,
            times.poll_timeout_s,
            has_history=has_history,
        )

    def _post(self, event: str, reason: object) -> None:
        self.posts.append(event)

    def set_registration(self, registered: wire.Registered) -> None:
        self.heartbeat.set_registration(registered)
        self.poller.set_registration(registered)

    async def register_again(self) -> None:
        self.set_registration(await self.client.register(REGISTRATION))

    def leave(self) -> None:
        self.runner_tags = {"leaving"}
        self.poller.reconsider()


@asynccontextmanager
async def polling_runner(
    api: FakeApi,
    *,
    registered: wire.Registered = REGISTERED,
    times: PollTimes = TIMES,
    max_runs: int | None = None,
    outage_limit_s: float | None = None,
    has_history: bool = True,
) -> AsyncIterator[PollingRunner]:
    """A registered runner that claims runs. A defect of one of its tasks is raised at the end."""
    runner = PollingRunner(api, times, max_runs, outage_limit_s, has_history=has_history)
    runner.set_registration(registered)
    work = (runner.poller.live(), runner.heartbeat.run(), runner.outage.run(runner.heartbeat.send))
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield runner
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended
        await runner.runs.aclose()
        await runner.sessions.aclose()
        await runner.outbox.aclose()
        await runner.scripts.aclose()
