"""An actor lives the life that a machine declares.

It takes events from its inbox one after another. Entering a state starts the state's activity as a task and its
time limit as a timer; leaving the state cancels both. Activity and timer answer through the same inbox, so
whatever arrives while a state lasts (a stop, an outage, an answer) is one event among others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.machine.engine import Cause, Machine, Step
from fsm_runner.machine.spec import State
from fsm_runner.runtime.actors.record import Recorder
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.retry import RetryPolicy, Waits

INTERRUPTED = "interrupted"
"""The event that an actor begins with which takes up what an earlier process of the runner has left."""

Activity = Callable[[], Awaitable[object]]
Settings = Mapping[str, float | None]
"""The time limits, in seconds, that a spec names instead of giving a number; None: no limit."""


class TimeLimitExceeded(FsmRunnerError):
    """A state lasted longer than its spec, or the setting that it names, allows."""

    def __init__(self, state: str, limit_s: float, setting: str | None) -> None:
        name = "" if setting is None else f" ({setting.removesuffix('_s').replace('_', ' ')})"
        super().__init__(f"{state.replace('_', ' ')}: not done within the time limit of {limit_s:g} s{name}")


class Position(NamedTuple):
    """Where an earlier process was in a life when it ended."""

    state: str
    outcome: str | None


class _Message(NamedTuple):
    event: str
    payload: object
    visit: int | None
    """The visit of the state that caused the event; None where it came from outside."""
    cause: Cause | None = None
    """How the state caused the event."""


class Inbox:
    """The events that wait for an actor. May be created before the actor, for components that post to it."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[_Message] = asyncio.Queue()

    def post(self, event: str, payload: object = None) -> None:
        """Post an external event; `payload` is its reason, for the log and the report."""
        self.put(_Message(event, payload, None))

    def put(self, message: _Message) -> None:
        self._messages.put_nowait(message)

    async def take(self) -> _Message:
        return await self._messages.get()


class Actor:
    """Runs one model through `machine`. Subclasses hand in their activities by name and may override `on_step`.

    `resume_from`: the life was begun by an earlier process, and goes on with the event `interrupted`.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        activities: Mapping[str, Activity],
        settings: Settings | None = None,
        *,
        recorder: Recorder,
        resume_from: Position | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.name = name
        self.model = machine.model()
        self._left_at = resume_from
        self._recorder = recorder
        self._machine = machine
        self._activities = activities
        self._settings = settings or {}
        self._inbox = inbox or Inbox()
        self._visit = 0
        self._activity: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        return self.model.state

    def post(self, event: str, payload: object = None) -> None:
        """Post an external event; `payload` is its reason, for the log and the report."""
        self._inbox.post(event, payload)

    async def run(self) -> str:
        """Live until a final state is reached, and return it. Nothing of the actor runs afterwards."""
        if self._left_at is None:
            self._record("begun", None, "")
            self._enter()
        else:
            self._go_on(self._left_at)
        try:
            while not self._machine.is_final(self.model):
                self._take(await self._inbox.take())
        finally:
            self._leave()
            if self._left:
                await asyncio.wait(self._left)
        return self.model.state

    def facts(self) -> frozenset[str]:
        """Return the facts that hold now, which guards test. Called before each event is answered."""
        return self.model.facts

    def on_ignored(self, step: Step) -> None:
        """Called after each event that changed nothing. Must not block."""

    def on_step(self, step: Step, payload: object) -> None:
        """Called after each transition, before the activity of the new state starts. Must not block."""

    def _take(self, message: _Message) -> None:
        if message.visit is not None and message.visit != self._visit:
            # Its state was left while the message waited in the inbox: that activity was cancelled, just too late.
            return
        self.model.facts = self.facts()
        step = self._machine.fire(self.model, message.event, message.cause)
        if step.taken:
            self._leave()
            self._record(step.event, step.source, _reason(message.payload))
            self.on_step(step, message.payload)
            self._enter()
        else:
            self.on_ignored(step)

    def _go_on(self, resume_from: Position) -> None:
        """A state that ignores the interruption is entered once more."""
        if resume_from.state in self._machine.spec.states:
            self.model.state, self.model.outcome = resume_from
        step = self._machine.fire(self.model, INTERRUPTED)
        self._record(step.event, step.source, "")
        if step.taken:
            self.on_step(step, None)
        self._enter()

    def _record(self, event: str, source: str | None, reason: str) -> None:
        subject, model = self.name, self.model
        self._recorder.record_transition(
            self._machine.spec.name, subject, event, source, model.state, model.outcome, reason
        )

    def _enter(self) -> None:
        self._visit += 1
        state = self._machine.spec.states[self.model.state]
        if state.invoke is not None:
            work = self._perform(state, self._activities[state.invoke], self._visit)
            self._activity = asyncio.create_task(work, name=f"{self.name} {state.invoke}")
        limit_s = self._limit_s(state)
        if limit_s is not None:
            self._timer = asyncio.get_running_loop().call_later(limit_s, self._time_out, state, limit_s, self._visit)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        activity, self._activity = self._activity, None
        if activity is not None and not activity.done():
            activity.cancel()
            self._left.add(activity)
            activity.add_done_callback(self._left.discard)

    def _limit_s(self, state: State) -> float | None:
        return self._settings[state.timeout_s] if isinstance(state.timeout_s, str) else state.timeout_s

    async def _perform(self, state: State, activity: Activity, visit: int) -> None:
        try:
            value = await self._with_retries(state, activity)
        except (FsmRunnerError, OSError) as failure:
            self._answer(state, Cause.ERROR, failure, visit)
        except asyncio.CancelledError as failure:
            if _is_being_cancelled():
                raise
            # The activity was not cancelled but waited for something that was: it has failed like any other.
            logger.error("{}: {} broke: what it waited for was cancelled", self.name, state.invoke)
            self._answer(state, Cause.ERROR, failure, visit)
        except Exception as failure:  # noqa: BLE001 - whatever goes wrong in an activity is an event of its machine
            logger.opt(exception=failure).error("{}: {} broke", self.name, state.invoke)
            self._answer(state, Cause.ERROR, failure, visit)
        else:
            self._answer(state, Cause.DONE, value, visit)

    async def _with_retries(self, state: State, activity: Activity) -> object:
        """An OSError may pass; an error that was raised for people to read is a decision and stands."""
        if state.retry is None:
            return await activity()
        waits = Waits(RetryPolicy(base_s=state.retry.base_s, cap_s=state.retry.cap_s))
        for _ in range(state.retry.times):
            try:
                return await activity()
            except OSError as failure:
                wait_s = waits.next_s()
                logger.warning("{}: {} failed, again in {:.1f} s: {}", self.name, state.invoke, wait_s, failure)
            await asyncio.sleep(wait_s)
        return await activity()

    def _time_out(self, state: State, limit_s: float, visit: int) -> None:
        setting = state.timeout_s if isinstance(state.timeout_s, str) else None
        self._answer(state, Cause.TIMEOUT, TimeLimitExceeded(self.model.state, limit_s, setting), visit)

    def _answer(self, state: State, cause: Cause, payload: object, visit: int) -> None:
        event: str | None = getattr(state, cause.value)
        if event is not None:
            self._inbox.put(_Message(event, payload, visit, cause))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _reason(payload: object) -> str:
    """Why an event came, where its payload says so."""
    if isinstance(payload, BaseException):
        return limited_error(str(payload)) or type(payload).__name__
    return limited_error(payload) if isinstance(payload, str) else ""
