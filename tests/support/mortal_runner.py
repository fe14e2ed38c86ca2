"""A runner in virtual time, with a coordinator and a journal, that is killed and started again."""

import asyncio
import tempfile
from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import SessionChannel
from fsm_runner.reporting.session_reporter import ReportingContext
from fsm_runner.runtime.actors.actor import Inbox
from fsm_runner.runtime.actors.machines import load_machine
from fsm_runner.runtime.actors.run import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import PollTimes, RunnerActor
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.blueprint import no_runner_values
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.scripts.sync import ScriptSync
from tests.support.model_coordinator import Connection, Fault, HeldRun, ModelCoordinator
from tests.support.mortal_journal import Life, MortalJournal, Note, recovered

RUN_MACHINE, RUNNER_MACHINE, SESSION_MACHINE = load_machine("run"), load_machine("runner"), load_machine("session")
PROJECT_DIR = tempfile.gettempdir()
REGISTRATION = wire.Registration(
    hostname="host", project_dir=PROJECT_DIR, executor_profile="fake", executor=wire.ExecutorInfo(type="t", command="c")
)
POLLER_MACHINE = load_machine("poller")
TIMES = PollTimes(poll_timeout_s=1, heartbeat_interval_s=10)
STOPPED_ALL_S = 120.0
"""From then on an operator stops what is still at work, each minute."""
SETTLED_WITHIN_S = 600.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is submitted."""

    at_s: float = 0.0
    lasts_s: float | None = 1.0
    """None: until it is stopped."""
    error: str | None = None
    stops_at_s: float | None = None
    settled_at_s: float | None = None
    """When the coordinator gives it up."""


class Kill(msgspec.Struct, frozen=True):
    """The end of one process."""

    at_point: int
    """The number of the point, counted over journal records and steps of calls."""
    lost: int
    """So many of its last notes have not reached the disk, unless they were waited for."""
    down_s: float


class World(msgspec.Struct, frozen=True, kw_only=True):
    plans: tuple[Plan, ...]
    kills: tuple[Kill, ...] = ()
    faults: tuple[Fault, ...] = ()
    line_faults: tuple[Fault, ...] = ()
    restarts_at_s: tuple[float, ...] = ()
    disk_full: tuple[float, float] | None = None
    """From when, and for how long."""
    sessions: int = 1
    """Among which the runs are distributed."""
    commit_s: float = 0.0
    retry_interrupted: bool = False
    max_runs: int | None = None


class MortalExecution:
    def __init__(self, plan: Plan, session: SessionChannel, life: Life) -> None:
        self._plan = plan
        self._session = session
        self._life = life
        self._stopped = asyncio.Event()

    async def wait(self) -> CompletedSession:
        try:
            async with asyncio.timeout(self._plan.lasts_s):
                await self._stopped.wait()
        except TimeoutError:
            pass
        await self._life.go_on()
        if self._plan.error is not None:
            raise ExecutionFailed(self._plan.error)
        self._session.result({"done": True})
        return "finished"

    async def stop(self) -> StopSignal:
        await self._life.go_on()
        self._stopped.set()
        return "SIGTERM"

    async def aclose(self) -> None:
        self._stopped.set()


class MortalExecutor:
    def __init__(self, plans: dict[str, Plan], life: Life, begun: Counter[str]) -> None:
        self._plans = plans
        self._life = life
        self._begun = begun

    def accept(self, run: wire.Run) -> None: ...

    def starts_process(self, run: wire.Run) -> bool:
        return True

    async def prepare(self, assignment: Assignment) -> None:
        await self._life.go_on()

    async def start(self, assignment: Assignment, session: SessionChannel) -> MortalExecution:
        await self._life.go_on()
        run_id = assignment.run.run_id
        self._begun[run_id] += 1
        self._life.point()
        session.bind("proc_1", PROJECT_DIR)
        return MortalExecution(self._plans[run_id], session, self._life)


class Process:
    """One process of the runner, and what it leaves."""

    def __init__(self, scene: "Scene", life: Life, past: list[Note]) -> None:
        world = scene.world
        api = Connection(scene.coordinator, life, scene.faults, scene.line_faults)
        # The client takes the API's methods as they come, and the runner the journal's.
        inbox = Inbox()
        outage = OutageTimer(None, partial(inbox.post, "outage_too_long"))
        client = CoordinatorClient(
            api,  # type: ignore[arg-type]
            now=asyncio.get_running_loop().time,
            on_registration_lost=partial(inbox.post, "report_not_accepted"),
            on_unanswered=outage.unanswered,
            on_answered=outage.answered,
        )
        self.life = life
        self.journal = journal = MortalJournal(
            past,
            life,
            world.commit_s,
            on_unwritable=partial(inbox.post, "journal_unwritable"),
            on_writable=partial(inbox.post, "journal_writable"),
        )
        outbox = Outbox(MessageSender(client), journal)
        reporting = ReportingContext(outbox=outbox, clock=EventClock(), hostname="host", executor_profile="fake")
        sessions = SessionRegistry(
            SessionContext(
                machine=SESSION_MACHINE,
                reporting=reporting,
                record=journal,
                run_timeout_s=None,
                session_idle_timeout_s=None,
            )
        )
        context = RunContext(
            machine=RUN_MACHINE,
            executor=MortalExecutor(scene.plans, life, scene.begun),
            reporting=reporting,
            record=journal,
            look_up=client.look_up_run,
            project_dir=PROJECT_DIR,
            runner_values=no_runner_values,
            run_timeout_s=None,
            retry_interrupted=world.retry_interrupted,
            observer=Observer(),
        )
        self._sessions, self._outbox = sessions, outbox
        self._scripts = ScriptSync(client, Path(PROJECT_DIR))
        self._runs = runs = RunRegistry(context, sessions, world.max_runs)
        self.actor = RunnerActor(
            RUNNER_MACHINE,
            POLLER_MACHINE,
            client,
            REGISTRATION,
            runs,
            self._scripts,
            {"grace_period_s": 60, "stop_limit_s": 20},
            TIMES,
            Recovery(lambda: journal.recovered, outbox, runs, sessions, lambda: 0),
            journal,  # type: ignore[arg-type]
            outage,
            inbox,
        )

    @property
    def has_nothing_left(self) -> bool:
        left = recovered(self.journal.notes)
        return not (left.runs or left.messages)

    async def live(self, scene: "Scene") -> str | None:
        """Return the outcome once everything is settled and the runner has drained; None if it was killed before."""
        living = asyncio.create_task(self.actor.live())
        killed = asyncio.create_task(self.life.died.wait())
        while not scene.is_over(self) and asyncio.get_running_loop().time() < SETTLED_WITHIN_S:
            await asyncio.wait([living, killed], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if self.life.is_dead or living.done():
                break
        killed.cancel()
        try:
            if self.life.is_dead:
                living.cancel()
                await asyncio.wait([living])
                return None
            self.actor.post("drain_requested", "the test is over")
            return await living
        finally:
            for owned in (self._runs, self._sessions, self._outbox, self._scripts):
                await owned.aclose()


class Scene:
    """One example: a coordinator, and the processes of a runner, one after another."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.coordinator = ModelCoordinator()
        self.plans = {f"run_{number}": plan for number, plan in enumerate(world.plans)}
        self.faults, self.line_faults = deque(world.faults), deque(world.line_faults)
        self.begun: Counter[str] = Counter()
        self.process: Process | None = None
        self._disk_is_full = False

    def process_with(self, life: Life, past: list[Note]) -> Process:
        """The next one."""
        process = self.process = Process(self, life, past)
        if self._disk_is_full:
            process.journal.stick()
        return process

    def _fill_disk(self, for_s: float) -> None:
        self._disk_is_full = True
        asyncio.get_running_loop().call_later(for_s, self._make_space)
        if self.process is not None:
            self.process.journal.stick()

    def _make_space(self) -> None:
        self._disk_is_full = False
        if self.process is not None:
            self.process.journal.come_unstuck()

    def is_over(self, process: Process) -> bool:
        return (
            len(self.coordinator.runs) == len(self.plans)
            and self.coordinator.wait_until_idle
            and process.has_nothing_left
            and self._last_event_s() < asyncio.get_running_loop().time()
        )

    def _last_event_s(self) -> float:
        world = self.world
        disk_full = [] if world.disk_full is None else [sum(world.disk_full)]
        settled = [plan.at_s + (plan.settled_at_s or 0.0) for plan in world.plans]
        return max([0.0, *world.restarts_at_s, *disk_full, *settled])

    def _submit(self, run: wire.Run, plan: Plan) -> None:
        loop, coordinator = asyncio.get_running_loop(), self.coordinator
        coordinator.submit(run)
        if plan.stops_at_s is not None:
            loop.call_later(plan.stops_at_s, coordinator.stop, run.run_id)
        if plan.settled_at_s is not None:
            loop.call_later(plan.settled_at_s, coordinator.settle, run.run_id)

    def schedule(self) -> None:
        loop = asyncio.get_running_loop()
        for number, (run_id, plan) in enumerate(self.plans.items()):
            run = wire.Run(run_id=run_id, session_id=f"ses_{number % self.world.sessions}")
            loop.call_at(plan.at_s, self._submit, run, plan)
        for at_s in self.world.restarts_at_s:
            loop.call_at(at_s, self.coordinator.restart)
        if self.world.disk_full is not None:
            loop.call_at(self.world.disk_full[0], self._fill_disk, self.world.disk_full[1])

    async def operate(self) -> None:
        await asyncio.sleep(STOPPED_ALL_S)
        while True:
            for run_id in self.coordinator.runs:
                self.coordinator.stop(run_id)
            await asyncio.sleep(60)


class Seen(NamedTuple):
    runs: list[HeldRun]
    begun: Counter[str]
    killed: int
    has_nothing_left: bool


async def lives(world: World) -> Seen:
    """The lives of all processes of one example."""
    scene = Scene(world)
    scene.schedule()
    operator = asyncio.create_task(scene.operate())
    past: list[Note] = []
    killed = 0
    for kill in world.kills:
        process = scene.process_with(Life(kill.at_point), past)
        assert await process.live(scene) in (None, "stopped")
        past = process.journal.left_on_disk(kill.lost) if process.life.is_dead else process.journal.notes
        killed += process.life.is_dead
        await asyncio.sleep(kill.down_s)
    process = scene.process_with(Life(), past)
    assert await process.live(scene) == "stopped"
    operator.cancel()
    await asyncio.wait([operator])
    await scene.coordinator.aclose()
    return Seen(list(scene.coordinator.runs.values()), scene.begun, killed, process.has_nothing_left)
