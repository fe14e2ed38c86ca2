"""Whatever happens to a run, in whatever order: one final state, one terminal report, nothing after it."""

import asyncio
import random
import tempfile
from typing import Any, NoReturn

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import (
    NoConnection,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RunReassigned,
    Unreachable,
)
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.executors.interface import Assignment, ExecutionFailed, RunRefused
from fsm_runner.machine.engine import Cause
from fsm_runner.protocol import wire
from fsm_runner.protocol.event_clock import EventClock
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.reporting.session_channel import ReportingContext, SessionChannel
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.actors.run import RunActor
from fsm_runner.runtime.actors.run_context import Observer, RunContext
from fsm_runner.runtime.control.silence import SilenceLimit
from fsm_runner.util.tasks import wait_forever
from tests.support.limits import no_provider_limits
from tests.support.record import InstantRecord
from tests.support.virtual_time import run_virtually

MACHINE = load_machine("run")
FINAL_STATES = {name for name, state in MACHINE.spec.states.items() if state.final}
OWN_EVENTS = [
    (state, cause)
    for state in MACHINE.spec.states.values()
    for cause in Cause
    if getattr(state, cause.value) is not None
]
TERMINAL_REPORTS = ("completed", "failed", "stopped")
PROJECT_DIR = tempfile.gettempdir()
HIDING = ("not_registered", "not_authenticated")
"""Answers by which the coordinator says that it has not acted."""

RUN = wire.Run(run_id="run_1", session_id="ses_1")


class Hang(msgspec.Struct, frozen=True):
    """It never comes to an end by itself."""


class Do(msgspec.Struct, frozen=True):
    """It takes `after_s`, and then raises `error` or succeeds."""

    after_s: float = 0.0
    error: str | None = None


Behaviour = Hang | Do


class Fault(msgspec.Struct, frozen=True):
    """What the coordinator does with one attempt. `acted`: it took the message, but the answer got lost."""

    after_s: float
    kind: str
    acted: bool


class World(msgspec.Struct, frozen=True):
    accept: Do
    prepare: tuple[Behaviour, ...]
    start: Behaviour
    execution: Behaviour
    stop: Behaviour
    signal: StopSignal
    faults: tuple[Fault, ...]
    stops_at_s: tuple[float, ...]
    injected: tuple[tuple[float, int, int], ...]
    """Events of activities and timers that come late, early or twice: when, which, of how many visits ago."""
    run_timeout_s: float | None
    silence_timeout_s: float | None = None


ERRORS: dict[str, Exception] = {
    "refused": RunRefused("no"),
    "failed": ExecutionFailed("exit code 1"),
    "os": OSError("busy"),
    "bug": ZeroDivisionError("bug"),
}


async def behave(behaviour: Behaviour) -> None:
    if isinstance(behaviour, Hang):
        await asyncio.get_running_loop().create_future()
        return
    await asyncio.sleep(behaviour.after_s)
    if behaviour.error is not None:
        raise ERRORS[behaviour.error]


class FakeExecution:
    process = None

    def __init__(self, world: World, session: SessionChannel) -> None:
        self._world = world
        self._session = session
        self.closed = False

    async def wait(self) -> CompletedSession:
        await behave(self._world.execution)
        self._session.result({"done": True})
        return "finished"

    async def stop(self) -> StopSignal:
        await behave(self._world.stop)
        return self._world.signal

    async def aclose(self) -> None:
        self.closed = True


class FakeExecutor:
    def __init__(self, world: World) -> None:
        self._world = world
        self._preparations = list(world.prepare)
        self.executions: list[FakeExecution] = []

    def starts_process(self, run: wire.Run) -> bool:
        return True

    def can_continue(self, session_id: str) -> bool:
        return True

    async def wait_until_lost(self, session_id: str) -> NoReturn:
        await wait_forever()

    def accept(self, run: wire.Run) -> None:
        if self._world.accept.error is not None:
            raise ERRORS[self._world.accept.error]

    async def end_session(self, session_id: str) -> None:
        pass

    async def prepare(self, assignment: Assignment) -> None:
        await behave(self._preparations.pop(0) if self._preparations else Do())

    async def start(self, assignment: Assignment, session: SessionChannel) -> FakeExecution:
        await behave(self._world.start)
        session.bind("proc_1", PROJECT_DIR)
        self.executions.append(FakeExecution(self._world, session))
        return self.executions[-1]


class FaultyApi:
    """A coordinator that accepts every message, as the deployed one does, and fails calls as `faults` say.

    `hidden`: messages that it accepted although its response denies it.
    """

    url = "http://coordinator"

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self._faults = list(faults)
        self.taken: list[str] = []
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.hidden: list[str] = []
        self.is_reassigned = False
        self.state = wire.RunState(status="claimed")

    async def deliver(self, path: str, body: bytes, method: str = "POST", **_: object) -> ApiResponse:
        assert not self.is_reassigned, "nothing is sent about a run that is not this runner's any more"
        message = path.rpartition("/")[2]
        fault = self._next_fault()
        await asyncio.sleep(fault.after_s)
        if fault.acted and fault.kind not in {"refused", "no_connection", "reassigned"}:
            self._take(message, body)
            if fault.kind in HIDING:
                self.hidden.append(message)
        if fault.kind == "refused":
            self.refused.append(message)
        self._fail(fault)
        self.acknowledged.append(message)
        return ApiResponse(path, 200, b"{}")

    async def run_state(self, run_id: str) -> wire.RunState:
        fault = self._next_fault()
        await asyncio.sleep(fault.after_s)
        if fault.kind not in {"refused", "reassigned"}:  # what it holds it does not forget
            self._fail(fault)
        return self.state

    def _next_fault(self) -> Fault:
        return self._faults.pop(0) if self._faults else Fault(0.0, "none", True)

    def _take(self, message: str, body: bytes) -> None:
        self.taken.append(message)
        if message in TERMINAL_REPORTS:
            self.state = wire.RunState(status=message, error=msgspec.json.decode(body).get("error"))

    def _fail(self, fault: Fault) -> None:
        match fault.kind:
            case "unreachable":
                raise Unreachable("500")
            case "no_connection":
                raise NoConnection("refused")
            case "not_registered":
                raise NotRegistered("401")
            case "not_authenticated":
                raise NotAuthenticated("403", 403)
            case "refused":
                raise Refused("404", 404)
            case "reassigned":
                self.is_reassigned = True
                raise RunReassigned("409", 2)


seconds = st.floats(0, 30, allow_nan=False)
errors = st.none() | st.sampled_from(sorted(ERRORS))
doings = st.builds(Do, seconds, errors)
behaviours = st.one_of(st.builds(Do, seconds), doings, doings, st.just(Hang()))
kinds = st.sampled_from([*["unreachable"] * 3, "no_connection", *HIDING, "refused", "reassigned"])
worlds = st.builds(
    World,
    accept=st.builds(Do, st.just(0.0), st.none() | errors),
    prepare=st.lists(behaviours, max_size=4).map(tuple),
    start=st.just(Do()) | behaviours,
    execution=behaviours,
    stop=behaviours,
    signal=st.sampled_from(["shutdown", "SIGTERM", "SIGKILL"]),
    faults=st.lists(st.builds(Fault, seconds, kinds, st.booleans()), max_size=12).map(tuple),
    stops_at_s=st.lists(st.floats(0, 200), max_size=3).map(tuple),
    injected=st.lists(
        st.tuples(st.floats(0, 200), st.integers(0, len(OWN_EVENTS) - 1), st.integers(0, 3)), max_size=6
    ).map(tuple),
    run_timeout_s=st.none() | st.floats(0.1, 60),
    silence_timeout_s=st.none() | st.floats(0.1, 60),
)


def ends(world: World) -> bool:
    """Nothing but a stop or a limit ends an execution that hangs."""
    if isinstance(world.start, Hang):
        return world.run_timeout_s is not None
    limits_s = (world.run_timeout_s, world.silence_timeout_s)
    return not isinstance(world.execution, Hang) or any(limit_s is not None for limit_s in limits_s)


async def disturb(actor: RunActor, world: World) -> None:
    """Post the stops and the injected events at their times."""
    moments: list[tuple[float, int | None, int]] = [(at_s, None, 0) for at_s in world.stops_at_s]
    moments += [(at_s, which, back) for at_s, which, back in world.injected]
    began = asyncio.get_running_loop().time()
    for at_s, which, back in sorted(moments, key=lambda moment: moment[0]):
        await asyncio.sleep(began + at_s - asyncio.get_running_loop().time())
        if which is None:
            actor.post("stop_requested", "test")
        else:
            inject(actor, which, back)


def inject(actor: RunActor, which: int, back: int) -> None:
    """An answer of the state that the run is in now, or of one that it has left.

    Never `reported`: it says that the coordinator has acknowledged, and only the coordinator makes it true.
    """
    state = MACHINE.spec.states[actor.state]
    own = [cause for cause in Cause if getattr(state, cause.value) not in (None, "reported")]
    if back > 0:
        actor._post_result(*OWN_EVENTS[which], ExecutionFailed("late"), actor._visit - back)
    elif own:
        actor._post_result(state, own[which % len(own)], ExecutionFailed("early"), actor._visit)


async def live(world: World) -> tuple[str, str | None, FaultyApi, FakeExecutor]:
    api, executor = FaultyApi(world.faults), FakeExecutor(world)
    # The client needs one method of the API, and takes it as it comes.
    client = CoordinatorClient(api)  # type: ignore[arg-type]
    outbox, record = Outbox(MessageSender(client), NoMessageStore()), InstantRecord()
    context = RunContext(
        machine=MACHINE,
        executor=executor,
        reporting=ReportingContext(outbox=outbox, clock=EventClock(), hostname="host", executor_profile="fake"),
        record=record,
        look_up=client.look_up_run,
        project_dir=PROJECT_DIR,
        runner_values=lambda _: {},
        run_timeout_s=world.run_timeout_s,
        retry_interrupted=False,
        observer=Observer(),
        silence_limit=None if world.silence_timeout_s is None else SilenceLimit(world.silence_timeout_s),
    )
    actor = RunActor(RUN, "runner_1", context, no_provider_limits())
    outbox.on_reassigned = lambda _session, _run, refusal: actor.post("reassigned", refusal)
    disturbance = asyncio.create_task(disturb(actor, world))
    if not ends(world):
        disturbance.add_done_callback(lambda _: actor.post("stop_requested", "the last one"))
    state = await actor.live()
    assert record.last_position(RUN.run_id) == (state, actor.model.outcome)
    assert record.ended_runs == [RUN.run_id]
    disturbance.cancel()
    await asyncio.wait([disturbance])
    await outbox.aclose()
    return state, actor.model.outcome, api, executor


@settings(max_examples=1000, deadline=None)
@given(worlds, st.integers())
def test_a_run_ends_in_one_final_state_with_one_terminal_report(world: World, seed: int) -> None:
    random.seed(seed)
    state, outcome, api, executor = run_virtually(lambda: live(world))
    event(f"{state}, {'refused' if api.refused else 'taken'}")

    assert state in FINAL_STATES
    assert outcome is not None
    terminal = [message for message in api.taken if message in TERMINAL_REPORTS]
    acknowledged = [message for message in api.acknowledged if message in TERMINAL_REPORTS]
    refused = [message for message in api.refused if message in TERMINAL_REPORTS]

    assert set(terminal) <= {outcome}, "a run has one outcome, and no other is ever reported"
    if not world.injected:
        assert (state == "superseded") == api.is_reassigned
    assert len(acknowledged) + len(refused) <= 1, "nothing is reported again once it was answered"
    if not set(api.hidden) & set(TERMINAL_REPORTS):
        assert len(terminal) <= 1, "a report whose answer was lost is not acted upon twice"
    if state not in {"failed", "superseded"}:
        assert set(terminal) == {state}
    if terminal:
        assert all(message in TERMINAL_REPORTS for message in api.taken[api.taken.index(outcome) :])
    assert all(execution.closed for execution in executor.executions)


def test_the_good_path_is_reported_in_order() -> None:
    world = World(
        accept=Do(),
        prepare=(),
        start=Do(),
        execution=Do(1.0),
        stop=Do(),
        signal="SIGTERM",
        faults=(),
        stops_at_s=(),
        injected=(),
        run_timeout_s=None,
    )
    state, _, api, _ = run_virtually(lambda: live(world))
    assert state == "completed"
    assert api.acknowledged == ["started", "bind", "events", "completed"]


def test_a_report_that_is_never_taken_is_given_up_after_a_day() -> None:
    """The coordinator is away for good: the run ends locally, a day later."""
    world = World(
        accept=Do(error="refused"),
        prepare=(),
        start=Do(),
        execution=Do(),
        stop=Do(),
        signal="SIGTERM",
        faults=tuple(Fault(30.0, "unreachable", acted=False) for _ in range(10_000)),
        stops_at_s=(),
        injected=(),
        run_timeout_s=None,
    )

    async def timed() -> tuple[Any, float]:
        return await live(world), asyncio.get_running_loop().time()

    (state, outcome, api, _), took_s = run_virtually(timed)
    assert (state, outcome, api.taken) == ("failed", "failed", [])
    assert 86_400 <= took_s < 86_500
