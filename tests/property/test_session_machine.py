"""Whatever happens to a session: each run ends once, turns never overlap, and nothing of the executor is left."""

import asyncio
import random
import tempfile
from typing import ClassVar
from unittest.mock import patch

import msgspec
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import Refused, RunReassigned, Unreachable
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.executors.interface import Assignment, ExecutionFailed
from fsm_runner.executors.messages import TurnEnd
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.reporting.executor_status import ExecutorStatus
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.actors.session import SessionContext
from fsm_runner.runtime.actors.session_registry import PersistentExecutor, SessionRegistry
from tests.support.record import InstantRecord
from tests.support.virtual_time import run_virtually

RUN_MACHINE, SESSION_MACHINE = load_machine("run"), load_machine("session")
LIMIT = ProviderLimit(kind="context", scope="session")
TERMINAL_REPORTS = ("completed", "failed", "stopped")
SESSION = "ses_1"
LONG_AFTER_S = 1_000.0


class Ask(msgspec.Struct, frozen=True):
    """One run that the coordinator hands out."""

    at_s: float
    type: wire.RunType
    turn_s: float | None
    """How long the executor takes for it; None: for ever."""
    stop_after_s: float | None
    limited_turns: int = 0
    """How many of its turns end at a limit of its session, before one is completed."""


class World(msgspec.Struct, frozen=True):
    asks: tuple[Ask, ...]
    start_fails: bool
    dies_at_s: float | None
    exit_code: int
    stop_s: float
    signal: StopSignal
    idle_timeout_s: float | None
    run_timeout_s: float | None
    session_stop_at_s: float | None
    close_at_s: float
    faults: tuple[str, ...]
    revive: bool = False
    binds: bool = False
    """Whether the executor binds its session, so that a run continues after a limit instead of beginning again."""


class Stage(Observer):
    """What was seen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.processes: list[FakeProcess] = []
        self.taken: list[tuple[str, str]] = []
        """Messages that were acted upon: whose, and which."""
        self.acknowledged: list[tuple[str, str]] = []
        self.reassigned: set[object] = set()
        """The runs that another runner has got."""
        self.states: dict[str, list[str]] = {}
        self.runs_with_turn: list[str] = []
        self.latest_executing = ""
        self._faults = list(world.faults)
        self._status: dict[str, str] = {}
        self._errors: dict[str, str | None] = {}

    async def deliver(self, path: str, body: bytes, method: str = "POST", **headers: object) -> ApiResponse:
        _, of, message = path.rsplit("/", 2)
        run_id = of if of.startswith("run_") else headers.get("run_id")
        assert run_id not in self.reassigned, "nothing is sent about a run that is not this runner's any more"
        fault = self._faults.pop(0) if self._faults else ""
        await asyncio.sleep(0.01)
        if fault == "reassigned" and run_id is not None:
            self.reassigned.add(run_id)
            raise RunReassigned("409", 2)
        if fault == "unreachable":
            raise Unreachable("500")
        if fault == "refused" and message == "status":
            raise Refused("404", 404)
        self._act(of, message, body)
        if fault == "lost answer":
            raise Unreachable("reset")
        self.acknowledged.append((of, message))
        return ApiResponse(path, 200, body)

    async def run_state(self, run_id: str) -> wire.RunState:
        await asyncio.sleep(0.01)
        return wire.RunState(status=self._status.get(run_id, "claimed"), error=self._errors.get(run_id))

    def _act(self, of: str, message: str, body: bytes) -> None:
        self.taken.append((of, message))
        if message in TERMINAL_REPORTS:
            self._status[of] = message
            self._errors[of] = msgspec.json.decode(body).get("error")

    def taken_during(self, run_id: str) -> list[str]:
        """Return what was acted upon between the beginning of the run and its end."""
        of_run = [index for index, (of, _) in enumerate(self.taken) if of == run_id]
        return [message for _, message in self.taken[of_run[0] : of_run[-1]]]

    def entered(self, run: wire.Run, state: str, *, final: bool) -> None:
        self.states.setdefault(run.run_id, []).append(state)
        if state == "executing":
            self.latest_executing = run.run_id


class FakeProcess:
    """Stands in for `PersistentProcess`."""

    stage: Stage

    def __init__(self, launcher: object, assignment: Assignment, channel: SessionChannel) -> None:
        world = self.stage.world
        if world.start_fails:
            raise ExecutionFailed("it cannot be started")
        self.alive = True
        self.in_turn = False
        self._channel = channel
        self._gone = asyncio.Event()
        self.stage.processes.append(self)
        self._death: asyncio.TimerHandle | None = None
        if world.dies_at_s is not None:
            self._death = asyncio.get_running_loop().call_later(world.dies_at_s, self._die)

    def _die(self) -> None:
        self.alive = False
        self._gone.set()

    async def take_turn(self, line: bytes) -> TurnEnd:
        assert not self.in_turn, "two turns at once"
        self.in_turn = True
        parameters = msgspec.json.decode(line)["parameters"]
        run_id = parameters.get("run") or self.stage.latest_executing
        ask = self.stage.world.asks[int(run_id.removeprefix("run_"))]
        turns = self.stage.runs_with_turn
        turns.append(run_id)
        if self.stage.world.binds:
            self._channel.observer.note_bind()
        try:
            async with asyncio.timeout(ask.turn_s):
                await self._gone.wait()
            raise ExecutionFailed("it died")
        except TimeoutError:
            if turns.count(run_id) > ask.limited_turns:
                return TurnEnd.COMPLETE
            self._channel.observer.note_status(ExecutorStatus(limit=LIMIT))
            return TurnEnd.LIMITED
        finally:
            self.in_turn = False

    async def wait_for_exit(self) -> None:
        await self._gone.wait()
        if self.stage.world.exit_code != 0:
            raise ExecutionFailed("it crashed")

    async def stop(self) -> StopSignal:
        if not self.alive:
            return "shutdown"
        await asyncio.sleep(self.stage.world.stop_s)
        self._die()
        return self.stage.world.signal

    async def aclose(self) -> None:
        if self._death is not None:
            self._death.cancel()
        self._die()


class FakeLauncher:
    executor_config: ClassVar[wire.JsonObject] = {}


def ask_id(number: int) -> str:
    return f"run_{number}"


FAULTS = ("", "unreachable", "lost answer", "refused", "reassigned")
moments = st.floats(0, 40, allow_nan=False)
asks = st.lists(
    st.builds(
        Ask,
        moments,
        st.sampled_from(["start_session", "resume_session", "resume_session"]),
        st.none() | st.floats(0.01, 20) | st.floats(0.01, 2),
        st.none() | moments,
        st.sampled_from([0, 0, 0, 1, 2]),
    ),
    min_size=1,
    max_size=6,
).map(lambda found: tuple(sorted(found, key=lambda ask: ask.at_s)))
worlds = st.builds(
    World,
    asks=asks,
    start_fails=st.sampled_from([False, False, False, True]),
    dies_at_s=st.none() | moments,
    exit_code=st.integers(0, 1),
    stop_s=st.floats(0, 40),
    signal=st.sampled_from(["shutdown", "SIGTERM", "SIGKILL"]),
    idle_timeout_s=st.none() | st.floats(0.5, 20),
    run_timeout_s=st.none() | st.floats(0.1, 30),
    session_stop_at_s=st.none() | moments,
    close_at_s=st.floats(0, 80),
    faults=st.lists(st.sampled_from(FAULTS), max_size=8).map(tuple),
    revive=st.booleans(),
    binds=st.booleans(),
)


CALM = World(
    asks=(),
    start_fails=False,
    dies_at_s=None,
    exit_code=0,
    stop_s=0.0,
    signal="shutdown",
    idle_timeout_s=None,
    run_timeout_s=None,
    session_stop_at_s=None,
    close_at_s=20.0,
    faults=(),
    revive=True,
    binds=True,
)
FIRST = Ask(0.0, "start_session", 1.0, None)
RESUMED_WHILE_ITS_PROCESS_ENDS = msgspec.structs.replace(
    CALM, asks=(FIRST, Ask(3.0, "resume_session", 1.0, None)), idle_timeout_s=1.5, stop_s=2.0
)


async def live(world: World, stage: Stage) -> None:
    # The client takes the API's methods as they come.
    client = CoordinatorClient(stage)  # type: ignore[arg-type]
    record = InstantRecord()
    outbox = Outbox(MessageSender(client), NoMessageStore())
    reporting = ReportingContext(outbox=outbox, clock=EventClock(), hostname="h", executor_profile="p")
    context = SessionContext(
        machine=SESSION_MACHINE,
        reporting=reporting,
        record=record,
        run_timeout_s=world.run_timeout_s,
        session_idle_timeout_s=world.idle_timeout_s,
        revive=world.revive,
    )
    sessions = SessionRegistry(context)
    run_context = RunContext(
        machine=RUN_MACHINE,
        # A session reads only the config of the launcher: its processes are fakes.
        executor=PersistentExecutor(sessions, FakeLauncher()),  # type: ignore[arg-type]
        reporting=reporting,
        record=record,
        look_up=client.look_up_run,
        project_dir=tempfile.gettempdir(),
        runner_values=lambda _: {},
        run_timeout_s=world.run_timeout_s,
        retry_interrupted=False,
        observer=stage,
    )
    loop = asyncio.get_running_loop()
    runs = RunRegistry(run_context, sessions, wall_clock_s=loop.time)
    for number, ask in enumerate(world.asks):
        run = wire.Run(run_id=ask_id(number), session_id=SESSION, type=ask.type, parameters={"run": ask_id(number)})
        loop.call_at(ask.at_s, runs.start, run, "runner_1")
        if ask.stop_after_s is not None:
            loop.call_at(ask.at_s + ask.stop_after_s, runs.stop_session, SESSION, "the test")
    if world.session_stop_at_s is not None:
        loop.call_at(world.session_stop_at_s, runs.stop_session, SESSION, "the test")
    await asyncio.sleep(world.close_at_s + 41)
    loop.call_later(LONG_AFTER_S, runs.stop_all, "the test is over")
    await runs.wait_until_empty()
    await runs.close_sessions("the test is over")
    assert not sessions
    await runs.aclose()
    await sessions.aclose()
    await outbox.aclose()
    assert record.open_sessions == []
    assert sorted(record.ended_runs) == sorted(record.claims)
    assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def played(world: World) -> Stage:
    stage = Stage(world)
    kind = type("StagedProcess", (FakeProcess,), {"stage": stage})
    with patch("fsm_runner.runtime.actors.session.PersistentProcess", kind):
        run_virtually(lambda: live(world, stage))
    return stage


@settings(max_examples=400, deadline=None)
@given(worlds, st.integers())
@example(RESUMED_WHILE_ITS_PROCESS_ENDS, 0)
def test_each_run_of_a_session_ends_once_and_no_process_of_the_executor_remains(world: World, seed: int) -> None:
    random.seed(seed)
    stage = played(world)
    for number in range(len(world.asks)):
        states = stage.states[ask_id(number)]
        assert RUN_MACHINE.spec.states[states[-1]].final
        reports = [message for of, message in stage.taken if of == ask_id(number) and message in TERMINAL_REPORTS]
        event(states[-1])
        if ask_id(number) in stage.reassigned:
            assert states[-1] == "superseded"
        else:
            assert reports == [states[-1]]
    assert not any(process.alive for process in stage.processes)
    statuses = [message for of, message in stage.acknowledged if (of, message) == (SESSION, "status")]
    assert len(statuses) <= len(stage.processes)
    event(f"session status reported: {bool(statuses)}")
    unlimited = {ask_id(number) for number, ask in enumerate(world.asks) if ask.limited_turns == 0}
    for run_id in unlimited.intersection(stage.runs_with_turn) - stage.reassigned:
        assert "status" not in stage.taken_during(run_id), "the end of an earlier process is reported in a run"
    last = [message for of, message in stage.taken if message in (*TERMINAL_REPORTS, "status")][-1:]
    if last == ["completed"] and "refused" not in world.faults and not stage.reassigned:
        raise AssertionError("a session that lived on after its last run was not reported as ended")


def test_the_end_of_a_process_is_not_reported_if_a_run_continues_the_session() -> None:
    of_runs = [(ask_id(number), message) for number in range(2) for message in ("started", "completed")]
    assert played(RESUMED_WHILE_ITS_PROCESS_ENDS).taken == [*of_runs, (SESSION, "status")]
