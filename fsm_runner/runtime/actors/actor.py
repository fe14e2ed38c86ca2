"""The base of all actors: an actor runs one model through the machine that a spec declares.

An actor handles the events of its inbox one after another. Entering a state starts the state's activity as a task, and
its time limit as a timer; leaving the state cancels both. Activity and timer post their results to the same inbox, so
a stop, an outage or a result are all handled the same way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.journal.records import Transition
from fsm_runner.machine.engine import Answer, Cause, Machine, Step
from fsm_runner.machine.spec import State
from fsm_runner.runtime.actors.record import Recorder
from fsm_runner.util.error_text import limited_error
from fsm_runner.util.retry import RetryPolicy, Waits

Activity = Callable[[], Awaitable[object]]
Settings = Mapping[str, float | None]
"""The time limits, in seconds, that a spec refers to by name; None: no limit."""


class TimeLimitExceeded(FsmRunnerError):
    """A state lasted longer than its spec, or the setting that the spec names, allows."""

    def __init__(self, state: str, limit_s: float, setting: str | None) -> None:
        name = "" if setting is None else f" ({setting.removesuffix('_s').replace('_', ' ')})"
        super().__init__(f"{state.replace('_', ' ')}: not done within the time limit of {limit_s:g} s{name}")


class Position(NamedTuple):
    """The position of a subject in its machine when an earlier process ended."""

    state: str
    """Empty if no transition was recorded: then the subject is in the initial state."""
    outcome: str | None
    provisional: bool = False


class _Message(NamedTuple):
    event: str
    payload: object
    reason: str
    """Why the event was posted, for the journal."""
    visit: int | None = None
    """The visit of the state that caused the event; None for an event from outside."""
    cause: Cause | None = None
    """How the state caused the event."""


class Inbox(asyncio.Queue[_Message | None]):
    """The events that wait for an actor, also for one that does not exist yet. None only wakes it."""

    def post(self, event: str, payload: object = None) -> None:
        """Queue an event from outside. A `payload` that is a text or an exception is its reason in the journal."""
        self.put_nowait(_Message(event, payload, _reason(payload)))


class Actor:
    """Runs one model through `machine`. Subclasses pass their activities by name and may override `on_step`.

    `resume_from`: continue a life that an earlier process began, with the event `interrupted`.
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
        self._resume_from = resume_from
        self._recorder = recorder
        self._machine = machine
        self._activities = activities
        self._settings = settings or {}
        self._inbox = inbox or Inbox()
        self._is_running = False
        """A spec cannot express this: before and after `run`, no event may start an activity."""
        self._visit = 0
        self._activity: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        return self.model.state

    @property
    def was_resumed(self) -> bool:
        """Whether an earlier runner process began the life of the subject."""
        return self._resume_from is not None

    def has_tag(self, tag: str) -> bool:
        return self._machine.has_tag(self.model, tag)

    def post(self, event: str, payload: object = None) -> None:
        """Queue an event, as `Inbox.post` does."""
        self._inbox.post(event, payload)

    def request(self, event: str, payload: object, reason: str) -> Answer:
        """Handle an event at once, after all queued ones, and return the answer of the current state."""
        if not self._is_running:
            return Answer.REJECTED
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())
        answer = self._handle(_Message(event, payload, reason))
        self._inbox.put_nowait(None)  # `run` may wait for a message although the state is final now
        return answer

    async def run(self) -> str:
        """Run until a final state is reached, and return it. No task of the actor is left afterwards."""
        self._is_running = True
        if self._resume_from is None:
            self._record("begun", None, "")
            self._enter()
        else:
            self._resume(self._resume_from)
        try:
            while not self._machine.is_final(self.model):
                self._handle(await self._inbox.get())
        finally:
            self._is_running = False
            self._leave()
            if self._cancelled:
                await asyncio.wait(self._cancelled)
        return self.model.state

    def facts(self) -> frozenset[str]:
        """Return the facts that hold now, which guards test. Called before each event is answered."""
        return self.model.facts

    def time_limit_error(self, limit_s: float, setting: str | None) -> FsmRunnerError:
        """Return the error of a state that has lasted for its limit, which a setting has if that is not None."""
        return TimeLimitExceeded(self.state, limit_s, setting)

    def on_ignored(self, step: Step) -> None:
        """Called after each event that changed nothing. Must not block."""

    def on_step(self, step: Step, payload: object) -> None:
        """Called after each transition, before the activity of the new state starts. Must not block."""

    def _handle(self, message: _Message | None) -> Answer:
        if message is None or message.visit not in (None, self._visit):
            # The state that caused the event was left while the event was in the inbox.
            return Answer.IGNORED
        self.model.facts = self.facts()
        step = self._machine.fire(self.model, message.event, message.cause)
        if step.taken:
            self._leave()
            self._record(step.event, step.source, message.reason)
            self.on_step(step, message.payload)
            self._enter()
        else:
            self.on_ignored(step)
        return step.answer

    def _resume(self, position: Position) -> None:
        """Enter the state that `interrupted` leads to; a state that ignores it is entered again."""
        if position.state:
            self.model.state, self.model.outcome, self.model.provisional = position
        self.model.facts = self.facts()
        step = self._machine.fire(self.model, "interrupted")
        self._record(step.event, step.source, "")
        if step.taken:
            self.on_step(step, None)
        self._enter()

    def _record(self, event: str, source: str | None, reason: str) -> None:
        machine, model = self._machine.spec.name, self.model
        step = Transition(machine, self.name, event, source, model.state, model.outcome, reason, model.provisional)
        self._recorder.record_transition(step)

    def _enter(self) -> None:
        self._visit += 1
        state = self._machine.spec.states[self.model.state]
        if state.invoke is not None:
            work = self._perform(state, self._activities[state.invoke], self._visit)
            self._activity = asyncio.create_task(work, name=f"{self.name} {state.invoke}")
        limit_s = self._settings[state.timeout_s] if isinstance(state.timeout_s, str) else state.timeout_s
        if limit_s is not None:
            self._timer = asyncio.get_running_loop().call_later(limit_s, self._time_out, state, limit_s, self._visit)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        activity, self._activity = self._activity, None
        if activity is not None and not activity.done():
            activity.cancel()
            self._cancelled.add(activity)
            activity.add_done_callback(self._cancelled.discard)

    async def _perform(self, state: State, activity: Activity, visit: int) -> None:
        try:
            value = await self._with_retries(state, activity)
        except (FsmRunnerError, OSError) as failure:
            self._post_result(state, Cause.ERROR, failure, visit)
        except asyncio.CancelledError as failure:
            if (task := asyncio.current_task()) is None or task.cancelling() > 0:
                raise
            # The activity awaited something that was cancelled: a failure like any other.
            logger.error("{}: {} failed: a task that it awaited was cancelled", self.name, state.invoke)
            self._post_result(state, Cause.ERROR, failure, visit)
        except Exception as failure:  # noqa: BLE001 - any exception of an activity is an event of its machine
            logger.opt(exception=failure).error("{}: {} failed unexpectedly", self.name, state.invoke)
            self._post_result(state, Cause.ERROR, failure, visit)
        else:
            self._post_result(state, Cause.DONE, value, visit)

    async def _with_retries(self, state: State, activity: Activity) -> object:
        """Retry after an OSError, which may be temporary. An `FsmRunnerError` is final."""
        if state.retry is None:
            return await activity()
        waits = Waits(RetryPolicy(base_s=state.retry.base_s, cap_s=state.retry.cap_s))
        for _ in range(state.retry.times):
            try:
                return await activity()
            except OSError as failure:
                wait_s = waits.next_s()
                logger.warning("{}: {} failed, retrying in {:.1f} s: {}", self.name, state.invoke, wait_s, failure)
            await asyncio.sleep(wait_s)
        return await activity()

    def _time_out(self, state: State, limit_s: float, visit: int) -> None:
        setting = state.timeout_s if isinstance(state.timeout_s, str) else None
        self._post_result(state, Cause.TIMEOUT, self.time_limit_error(limit_s, setting), visit)

    def _post_result(self, state: State, cause: Cause, payload: object, visit: int) -> None:
        event: str | None = getattr(state, cause.value)
        if event is not None:
            self._inbox.put_nowait(_Message(event, payload, _reason(payload), visit, cause))


def took_text(took_s: float, actor: Actor) -> str:
    """Return the duration of the actor's life in this process, for the log."""
    return f"{took_s:.2f} s" + (" since it was resumed" if actor.was_resumed else "")


def _reason(payload: object) -> str:
    if isinstance(payload, BaseException):
        return limited_error(str(payload)) or type(payload).__name__
    return limited_error(payload) if isinstance(payload, str) else ""
