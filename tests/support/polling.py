"""A poller with a fake of the coordinator's API, in virtual time."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.executors.interface import Assignment
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import PollTimes
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.control.exit_rule import NEVER, ExitRule
from fsm_runner.runtime.control.heartbeat import Heartbeat
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.control.poller import Poller
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.tasks import wait_forever
from tests.support.fake_api import ME, REGISTERED, FakeApi, now_s
from tests.support.record import InstantRecord

MACHINE, SESSION_MACHINE, POLLER_MACHINE = load_machine("run"), load_machine("session"), load_machine("poller")
PROJECT_DIR = tempfile.gettempdir()
RUN = wire.Run(run_id="run_1", session_id="ses_1")
STOP = wire.StopRequest(run_id=RUN.run_id, session_id=RUN.session_id, runner_id=ME)
REGISTRATION = wire.Registration(
    hostname="host", project_dir=PROJECT_DIR, executor_profile="fake", executor=wire.ExecutorInfo(type="t", command="c")
)
TIMES = PollTimes(poll_timeout_s=30, heartbeat_interval_s=10)


class Endless:
    """An execution that only a stop ends, and its executor."""

    process = None

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

    def can_continue(self, session_id: str) -> bool:
        return True

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    async def end_session(self, session_id: str) -> None:
        pass

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
        exit_rule: ExitRule = NEVER,
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
            exit_rule=exit_rule,
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
    exit_rule: ExitRule = NEVER,
    has_history: bool = True,
) -> AsyncIterator[PollingRunner]:
    """A registered runner that claims runs. A defect of one of its tasks is raised at the end."""
    runner = PollingRunner(api, times, max_runs, outage_limit_s, exit_rule, has_history=has_history)
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
