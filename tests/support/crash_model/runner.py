"""Simulates a runner in virtual time: its processes are killed and restarted; coordinator and journal are models."""

import asyncio
import math
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.outbox import Outbox
from fsm_runner.reporting.provider_limit import LimitScope, ProviderLimit
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.actor import Inbox
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.runner import PollTimes, RunnerActor
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import SessionRegistry
from fsm_runner.runtime.control.outage import OutageTimer
from fsm_runner.runtime.recovery import Recovery
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.scripts.sync import ScriptSync
from fsm_runner.util.tasks import wait_forever
from fsm_runner.workflow.file import LoadedWorkflow
from tests.support.crash_model.coordinator import Fault, ModelApi, ModelCoordinator, ModelRun
from tests.support.crash_model.journal import JournalCall, KillSwitch, ModelJournal, recovered
from tests.support.crash_model.timeline import Timeline
from tests.support.crash_model.workflow import Script, WorkflowWorld

RUN_MACHINE, RUNNER_MACHINE, SESSION_MACHINE = load_machine("run"), load_machine("runner"), load_machine("session")
PROJECT_DIR = tempfile.gettempdir()
REGISTRATION = wire.Registration(
    hostname="host", project_dir=PROJECT_DIR, executor_profile="fake", executor=wire.ExecutorInfo(type="t", command="c")
)
POLLER_MACHINE = load_machine("poller")
TIMES = PollTimes(poll_timeout_s=1, heartbeat_interval_s=10)
SETTLE_TIMEOUT_S = 480.0
"""After the operator's first stop."""


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to submit, and what happens to it."""

    at_s: float = 0.0
    lasts_s: float | None = 1.0
    """None: the run lasts until it is stopped."""
    error: str | None = None
    limits: tuple[float | None, ...] = ()
    """The limits that its first executions meet: the seconds until the reset; None: unknown."""
    limit_scope: LimitScope = "credential"
    data: dict[str, Any] = msgspec.field(default_factory=lambda: {"done": True})
    """The result of an execution."""
    parameters: dict[str, Any] = {}
    stops_at_s: float | None = None
    settled_at_s: float | None = None
    """When the coordinator declares it failed, after its submission."""
    requeued_at_s: float | None = None
    """When the coordinator takes the runner for lost, after its submission, and queues the run again."""
    given_away_at_s: float | None = None
    """When the coordinator takes the runner for lost, after its submission, and another runner completes the run."""
    offered_after_s: float = 0.0
    """How long no runner gets it then."""


class Kill(msgspec.Struct, frozen=True):
    """The kill of one process."""

    at_point: int
    """The number of the kill point: journal calls and steps of API calls count."""
    lost: int
    """The number of its last journal calls that are lost, unless it waited for their flush."""
    down_s: float


class Drain(msgspec.Struct, frozen=True):
    """The regular end of one process."""

    at_s: float
    """After its start."""
    down_s: float


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides the course of a simulation."""

    plans: tuple[PlannedRun, ...]
    ends: tuple[Kill | Drain, ...] = ()
    """How its processes end one after another. The last process ends when everything is settled."""
    faults: tuple[Fault, ...] = ()
    control_faults: tuple[Fault, ...] = ()
    restarts_at_s: tuple[float, ...] = ()
    disk_full: tuple[float, float] | None = None
    """Start and duration."""
    sessions: int = 1
    """The number of sessions that the runs belong to, in turn."""
    commit_s: float = 0.0
    retry_interrupted: bool = False
    max_runs: int | None = None
    limit_policy: ProviderLimitPolicy = ProviderLimitPolicy()
    has_journal_file: bool = False
    """Whether the runner counts on a next process that reads its journal."""
    operator_stops_after_s: float = 120.0
    """When an operator begins to stop all open runs, once a minute."""
    run_timeout_s: float | None = None
    workflow: tuple[LoadedWorkflow, Script] | None = None
    """What the run follows, if there is only one, and what its activities do."""

    @property
    def is_without_faults(self) -> bool:
        return not (self.faults or self.control_faults or self.restarts_at_s or self.disk_full or self.commit_s)


class ModelExecution:
    process = None

    def __init__(
        self,
        run_id: str,
        plan: PlannedRun,
        limit: ProviderLimit | None,
        session: SessionChannel,
        kill_switch: KillSwitch,
        timeline: Timeline,
    ) -> None:
        self._run_id = run_id
        self._plan = plan
        self._limit = limit
        self._session = session
        self._kill_switch = kill_switch
        self._timeline = timeline
        self._stopped = asyncio.Event()
        self._is_stopped = False

    async def wait(self) -> CompletedSession:
        try:
            async with asyncio.timeout(self._plan.lasts_s):
                await self._stopped.wait()
        except TimeoutError:
            pass
        await self._kill_switch.block_if_killed()
        if self._is_stopped:
            raise ExecutionFailed("stopped")
        answered = self._limit is None and self._plan.error is None
        self._timeline.ended(self._run_id, self, self._limit, was_answered=answered)
        if self._limit is not None:
            self._session.observer.note_status(ExecutorStatus(limit=self._limit))
            raise ExecutionFailed("limited")
        if self._plan.error is not None:
            raise ExecutionFailed(self._plan.error)
        self._session.result(self._plan.data)
        return "finished"

    async def stop(self) -> StopSignal:
        await self._kill_switch.block_if_killed()
        self._timeline.ended(self._run_id, self)
        self._is_stopped = True
        self._stopped.set()
        return "SIGTERM"

    async def aclose(self) -> None:
        self._timeline.ended(self._run_id, self)
        self._stopped.set()


class ModelExecutor:
    def __init__(
        self, plan_of: Callable[[str], PlannedRun], kill_switch: KillSwitch, starts: Counter[str], timeline: Timeline
    ) -> None:
        self._plan_of = plan_of
        self._kill_switch = kill_switch
        self._starts = starts
        self._timeline = timeline

    def accept(self, run: wire.Run) -> None: ...

    def starts_process(self, run: wire.Run) -> bool:
        return True

    def can_continue(self, session_id: str) -> bool:
        return True

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    async def end_session(self, session_id: str) -> None:
        pass

    async def prepare(self, assignment: Assignment) -> None:
        await self._kill_switch.block_if_killed()

    async def start(self, assignment: Assignment, session: SessionChannel) -> ModelExecution:
        await self._kill_switch.block_if_killed()
        run_id = assignment.run.run_id
        plan, count = self._plan_of(run_id), self._starts[run_id]
        limit = model_limit(plan.limits[count], plan.limit_scope) if count < len(plan.limits) else None
        self._starts[run_id] += 1
        execution = ModelExecution(run_id, plan, limit, session, self._kill_switch, self._timeline)
        self._timeline.started(run_id, execution)
        self._kill_switch.kill_point()
        session.bind("proc_1", PROJECT_DIR)
        return execution


def model_limit(resets_in_s: float | None, scope: LimitScope) -> ProviderLimit:
    """Return a limit that resets in that time of the virtual clock, whose zero is the epoch of Unix."""
    resets_at = None
    if resets_in_s is not None:
        moment = datetime.fromtimestamp(asyncio.get_running_loop().time() + resets_in_s, UTC)
        resets_at = moment.isoformat()
    return ProviderLimit(kind="model", resets_at=resets_at, scope=scope)


class ModelProcess:
    """One process of the runner, with its journal."""

    def __init__(self, simulation: "Simulation", kill_switch: KillSwitch, past: list[JournalCall]) -> None:
        setup = simulation.setup
        api = ModelApi(simulation.coordinator, kill_switch, simulation.faults, simulation.control_faults)
        # The models have the methods that the client and the runner call, not the types.
        inbox = Inbox()
        outage = OutageTimer(None, partial(inbox.post, "outage_too_long"))
        client = CoordinatorClient(
            api,  # type: ignore[arg-type]
            now=asyncio.get_running_loop().time,
            on_registration_lost=partial(inbox.post, "report_not_accepted"),
            on_unanswered=outage.unanswered,
            on_answered=outage.answered,
        )
        self.kill_switch = kill_switch
        self.journal = journal = ModelJournal(
            past,
            kill_switch,
            setup.commit_s,
            on_unwritable=partial(inbox.post, "journal_unwritable"),
            on_writable=partial(inbox.post, "journal_writable"),
            has_file=setup.has_journal_file,
            has_commits=simulation.world is not None,
        )
        simulation.timeline.process_started(journal.recovered)
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
        world = simulation.world
        on_open = (lambda _: None) if world is None else world.asked
        self.approvals = Approvals(now_s=asyncio.get_running_loop().time, on_open=on_open)
        context = RunContext(
            machine=RUN_MACHINE,
            executor=ModelExecutor(simulation.plan_of, kill_switch, simulation.starts, simulation.timeline),
            reporting=reporting,
            record=journal,
            look_up=client.look_up_run,
            project_dir=PROJECT_DIR,
            runner_values=lambda _: {},
            run_timeout_s=setup.run_timeout_s,
            retry_interrupted=setup.retry_interrupted,
            observer=Observer(),
            workflows=None if world is None else world.workflows_of(reporting, journal, kill_switch, self.approvals),
        )
        self._sessions, self._outbox = sessions, outbox
        self._scripts = ScriptSync(client, Path(PROJECT_DIR))
        self._runs = runs = RunRegistry(
            context,
            sessions,
            setup.max_runs,
            limit_policy=setup.limit_policy,
            on_limit_reached=partial(inbox.post, "limit_reached"),
            on_limit_passed=partial(inbox.post, "limit_passed"),
            wall_clock_s=asyncio.get_running_loop().time,
        )
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
    def is_settled(self) -> bool:
        left = recovered(self.journal.calls)
        return not (left.runs or left.messages)

    async def live(self, simulation: "Simulation", drain_after_s: float = math.inf) -> str | None:
        """Drain after that time, or when everything is settled. Return the outcome, or None if it was killed."""
        living = asyncio.create_task(self.actor.live())
        killed = asyncio.create_task(self.kill_switch.killed.wait())
        world = simulation.world
        person = asyncio.create_task(wait_forever() if world is None else world.decide(self.approvals), name="person")
        loop = asyncio.get_running_loop()
        drain_at_s = min(loop.time() + drain_after_s, simulation.setup.operator_stops_after_s + SETTLE_TIMEOUT_S)
        while not simulation.is_finished(self) and (left_s := drain_at_s - loop.time()) > 0:
            await asyncio.wait([living, killed], timeout=min(1.0, left_s), return_when=asyncio.FIRST_COMPLETED)
            if self.kill_switch.is_killed or living.done():
                break
        killed.cancel()
        try:
            if self.kill_switch.is_killed:
                living.cancel()
                await asyncio.wait([living])
                return None
            self.actor.post("drain_requested", "the test is over")
            return await living
        finally:
            person.cancel()
            await asyncio.wait([person])
            for owned in (self._runs, self._sessions, self._outbox, self._scripts):
                await owned.aclose()


class Simulation:
    """A coordinator, and the processes of one runner, one after another."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.coordinator = ModelCoordinator()
        self.plans = {f"run_{number}": plan for number, plan in enumerate(setup.plans)}
        self.faults, self.control_faults = deque(setup.faults), deque(setup.control_faults)
        self.starts: Counter[str] = Counter()
        self.timeline = Timeline()
        has_limits = any(plan.limits for plan in setup.plans)
        self.world = None if setup.workflow is None else WorkflowWorld(*setup.workflow, has_limits=has_limits)
        self.process: ModelProcess | None = None
        self._disk_is_full = False

    def in_virtual_time(self) -> AbstractContextManager[None]:
        """Make workflows use the clock of the loop, and the steps of the model."""
        return nullcontext() if self.world is None else self.world.in_virtual_time()

    def plan_of(self, run_id: str) -> PlannedRun:
        """Return what the next execution of a run does."""
        plan = self.plans[run_id]
        if self.world is None:
            return plan
        turn = self.world.turns[run_id]
        error = None if turn.ending == "done" else "broken"
        return msgspec.structs.replace(plan, lasts_s=turn.takes_s, error=error, data=turn.value.get("data", plan.data))

    def start_process(self, kill_switch: KillSwitch, past: list[JournalCall]) -> ModelProcess:
        """Start the next process on what the journal holds."""
        process = self.process = ModelProcess(self, kill_switch, past)
        if self._disk_is_full:
            process.journal.make_unwritable()
        return process

    def _fill_disk(self, for_s: float) -> None:
        self._disk_is_full = True
        asyncio.get_running_loop().call_later(for_s, self._make_space)
        if self.process is not None:
            self.process.journal.make_unwritable()

    def _make_space(self) -> None:
        self._disk_is_full = False
        if self.process is not None:
            self.process.journal.make_writable()

    def is_finished(self, process: ModelProcess) -> bool:
        return (
            len(self.coordinator.runs) == len(self.plans)
            and self.coordinator.is_idle
            and process.is_settled
            and self._last_event_s() < asyncio.get_running_loop().time()
        )

    def _last_event_s(self) -> float:
        setup = self.setup
        disk_full = [] if setup.disk_full is None else [sum(setup.disk_full)]
        settled = [
            plan.at_s + max(plan.settled_at_s or 0.0, plan.requeued_at_s or 0.0, plan.given_away_at_s or 0.0)
            for plan in setup.plans
        ]
        return max([0.0, *setup.restarts_at_s, *disk_full, *settled])

    def _submit(self, run: wire.Run, plan: PlannedRun) -> None:
        loop, coordinator = asyncio.get_running_loop(), self.coordinator
        coordinator.submit(run)
        if plan.stops_at_s is not None:
            loop.call_later(plan.stops_at_s, coordinator.stop, run.run_id)
        if plan.settled_at_s is not None:
            loop.call_later(plan.settled_at_s, coordinator.settle, run.run_id)
        if plan.given_away_at_s is not None:
            loop.call_later(plan.given_away_at_s, coordinator.give_away, run.run_id)
        if plan.requeued_at_s is not None:
            loop.call_later(plan.requeued_at_s, coordinator.requeue, run.run_id, plan.offered_after_s)

    def schedule(self) -> None:
        loop = asyncio.get_running_loop()
        for number, (run_id, plan) in enumerate(self.plans.items()):
            session_id = f"ses_{number % self.setup.sessions}"
            run = wire.Run(run_id=run_id, session_id=session_id, parameters=plan.parameters)
            loop.call_at(plan.at_s, self._submit, run, plan)
        for at_s in self.setup.restarts_at_s:
            loop.call_at(at_s, self.coordinator.restart)
        if self.setup.disk_full is not None:
            loop.call_at(self.setup.disk_full[0], self._fill_disk, self.setup.disk_full[1])

    async def stop_old_runs(self) -> None:
        await asyncio.sleep(self.setup.operator_stops_after_s)
        while True:
            for run_id in self.coordinator.runs:
                self.coordinator.stop(run_id)
            await asyncio.sleep(60)


class SimulationResult(NamedTuple):
    runs: list[ModelRun]
    starts: Counter[str]
    killed: int
    is_settled: bool
    timeline: Timeline
    calls: list[JournalCall]
    """Those of the journal."""
    world: WorkflowWorld | None


async def simulate(setup: Setup) -> SimulationResult:
    """Run all processes of a setup, one after another, until everything is settled."""
    simulation = Simulation(setup)
    with simulation.in_virtual_time():
        return await _simulate(simulation, setup)


async def _simulate(simulation: Simulation, setup: Setup) -> SimulationResult:
    simulation.schedule()
    operator = asyncio.create_task(simulation.stop_old_runs())
    past: list[JournalCall] = []
    killed = 0
    for end in setup.ends:
        kill_switch = KillSwitch(end.at_point if isinstance(end, Kill) else None)
        process = simulation.start_process(kill_switch, past)
        outcome = await process.live(simulation, end.at_s if isinstance(end, Drain) else math.inf)
        assert outcome in (None, "stopped")
        past = process.journal.calls
        if isinstance(end, Kill) and kill_switch.is_killed:
            past = process.journal.calls_on_disk(end.lost)
            killed += 1
        await asyncio.sleep(end.down_s)
    process = simulation.start_process(KillSwitch(), past)
    assert await process.live(simulation) == "stopped"
    operator.cancel()
    await asyncio.wait([operator])
    await simulation.coordinator.aclose()
    runs = list(simulation.coordinator.runs.values())
    calls, world = process.journal.calls, simulation.world
    return SimulationResult(runs, simulation.starts, killed, process.is_settled, simulation.timeline, calls, world)
