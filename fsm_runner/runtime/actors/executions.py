"""The executions of one run: the first one, a further one after each wait for a limit of its provider, and one for
each turn of its workflow."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import msgspec

from fsm_runner.executors.interface import Assignment, Execution, ExecutionFailed, TurnLimited
from fsm_runner.protocol.statuses import CompletedSession, StopSignal
from fsm_runner.reporting.executor_status import ExecutorStatus, Usage
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.reporting.session_channel import ExecutorEvent, SessionChannel, TurnObserver
from fsm_runner.runtime.actors.run_context import RunContext
from fsm_runner.runtime.control.budgets import RunBudget
from fsm_runner.runtime.control.provider_limits import LimitWait, ProviderLimits
from fsm_runner.runtime.control.silence import SilenceWatch
from fsm_runner.runtime.expectations import RunExpectations
from fsm_runner.util.tasks import wait_forever


class LimitReached(ExecutionFailed):
    """The execution failed after its executor had reported a limit, and the provider has not answered since."""

    def __init__(self, failure: ExecutionFailed, limit: ProviderLimit) -> None:
        super().__init__(str(failure))
        self.limit = limit


class Executions(TurnObserver):
    """Starts the executions of a run one after another, and receives what its executor reports in them."""

    def __init__(
        self,
        assignment: Assignment,
        context: RunContext,
        limits: ProviderLimits,
        budget: RunBudget,
        silence: SilenceWatch,
        expectations: RunExpectations,
        has_tag: Callable[[str], bool],
        note_detail: Callable[[str], None],
        channel_type: type[SessionChannel] = SessionChannel,
    ) -> None:
        """`has_tag` returns whether the run's state has a tag. `note_detail` gets the executor's status details."""
        self._assignment = assignment
        self._executor = context.executor
        run = assignment.run
        self.channel = channel_type(run.session_id, context.reporting, lambda: has_tag("may_bind"), self, run)
        self._record = context.record
        self._limits = limits
        self._budget = budget
        self._silence = silence
        self._expectations = expectations
        self._has_tag = has_tag
        self._note_detail = note_detail
        self._current: Execution | None = None
        self.is_starting = False
        """Whether an execution is being started."""
        self.usage: Usage | None = None
        """The cost of all executions, as the executor reports it."""
        self._earlier_usage: Usage | None = None
        self._limit: ProviderLimit | None = None
        """The limit that the executor has reported, unless its provider has answered since."""
        self.turn_usage: Usage | None = None
        """The part of `usage` that belongs to the turn in progress, or else to the last one."""
        self._earlier_turn_usage: Usage | None = None
        self.have_begun = False
        """Whether there was an execution, perhaps in an earlier process of the runner."""
        self.is_further_attempt = False
        """Whether the turn was executed before and continues after a wait for a limit."""
        self.has_conversation = False
        """Whether the executor has taken the turn's prompt, so that a further execution continues its session."""
        self.holds_session = False
        """Whether the run continues after its turn, because it has a workflow. Its executor may end meanwhile."""
        self.has_taken_prompt = False
        """Whether the executor has taken the prompt of any turn, so that the session has a conversation."""
        self.on_prompt_taken: Callable[[], None] = lambda: None
        """Called when `has_conversation` becomes true."""
        self.session_status: CompletedSession = "finished"
        """How the last execution that succeeded has left its session."""
        self.lasted_s = 0.0
        """The duration of the earlier executions. The run's time limit is paused between them."""
        self._began_s: float | None = None
        """When this process began the execution that lasts, by the clock of the loop."""

    @property
    def is_started(self) -> bool:
        """Whether this process has started an execution."""
        return self._current is not None

    def restore(self, wait: LimitWait | None, usage: Usage | None) -> None:
        """Continue what an earlier process of the runner has begun. `wait`: None if the run did not wait."""
        self.usage = usage
        if usage is not None:
            self._budget.restore(usage)
        if wait is not None:
            self.have_begun = self.is_further_attempt = wait.has_begun
            self.has_conversation, self.lasted_s = wait.continues, wait.executed_s

    def with_progress(self, wait: LimitWait) -> LimitWait:
        """Return the wait with what `restore` needs in the runner's next process."""
        return msgspec.structs.replace(
            wait, has_begun=self.is_further_attempt, continues=self.has_conversation, executed_s=self.lasted_s
        )

    def count_from_now(self) -> None:
        """Begin to measure the duration of an execution."""
        self._began_s = asyncio.get_running_loop().time()

    def count_until_now(self) -> None:
        """End the measurement, if this process has begun one."""
        if self._began_s is not None:
            self.lasted_s += asyncio.get_running_loop().time() - self._began_s
            self._began_s = None

    def begin_turn(self, assignment: Assignment, *, is_further_attempt: bool = False) -> None:
        """Let the next execution be the first one of this turn, or one that continues it after a wait for a limit."""
        self._assignment = assignment
        self.turn_usage = None
        if not is_further_attempt:
            self.is_further_attempt = self.has_conversation = False

    async def execute(self) -> CompletedSession:
        """Start an execution and return how it leaves its session.

        Raises `RunRefused` if a budget is used up, and `ExecutionFailed`, also as `LimitReached`.
        """
        await self._budget.begin()
        earlier, self._limit = self._current, None
        self._earlier_usage, self._earlier_turn_usage = self.usage, self.turn_usage
        assignment, self.have_begun, self.is_further_attempt = self._next_assignment(), True, True
        self.is_starting = True
        try:
            self._current = await self._executor.start(assignment, self.channel)
        finally:
            self.is_starting = False
        if earlier is not None:
            await earlier.aclose()
        try:
            async with self._silence.over(self._current):
                self.session_status = await self._current.wait()
        except ExecutionFailed as failure:
            if self._limit is not None:
                raise LimitReached(failure, self._limit) from failure
            if isinstance(failure, TurnLimited):
                raise LimitReached(failure, ProviderLimit(kind="unknown")) from failure
            raise
        self._limits.passed(assignment.run.run_id)
        return self.session_status

    async def stop(self) -> StopSignal:
        """Stop the execution, or the executor that is idle after it, and return what it took."""
        return "shutdown" if self._current is None else await self._current.stop()

    async def aclose(self) -> None:
        if self._current is not None:
            await self._current.aclose()

    @property
    def can_continue(self) -> bool:
        """Whether a further execution is possible. One that the executor knows nothing of can begin again."""
        return not self.has_conversation or self._executor.can_continue(self._assignment.run.session_id)

    @property
    def can_resume(self) -> bool:
        """Whether a further turn can continue the conversation."""
        return self._executor.can_continue(self._assignment.run.session_id)

    async def wait_until_lost(self) -> NoReturn:
        """Raise `ExecutionFailed` once no further execution is possible. Otherwise wait forever."""
        if not self.has_conversation:
            await wait_forever()
        await self._executor.wait_until_lost(self._assignment.run.session_id)

    async def end_conversation(self) -> None:
        """End the executor of the session, if it is idle."""
        await self._executor.end_session(self._assignment.run.session_id)

    def _next_assignment(self) -> Assignment:
        if not self.is_further_attempt:
            return self._assignment
        run = self._assignment.run
        if self.has_conversation:
            prompt = {"prompt": self._limits.policy.prompt}
            run = msgspec.structs.replace(run, type="resume_session", parameters=prompt)
        return msgspec.structs.replace(self._assignment, run=run, continues=True)

    @property
    def continues_session(self) -> bool:
        # An executor may exit right after a limited turn, before its run has begun to wait.
        is_deciding = self._has_tag("may_bind") and self._limit is not None
        return is_deciding or self._has_tag("parked") or self.holds_session

    def note_status(self, status: ExecutorStatus) -> None:
        if status.status_detail is not None:
            self._note_detail(status.status_detail)
        if status.usage is not None:
            self._silence.note("usage")
            if status.usage.output_tokens:
                self._limits.passed(self._assignment.run.run_id)
            self.usage = _sum(self._earlier_usage, status.usage)
            self.turn_usage = _sum(self._earlier_turn_usage, status.usage)
            self._record.record_usage(self._assignment.run.run_id, msgspec.json.encode(self.usage))
            self._budget.note(self.usage)
        if status.limit is not None:
            self._limit = status.limit

    def note_bind(self) -> None:
        self._silence.note("bind")
        self._note_prompt_taken()

    def _note_prompt_taken(self) -> None:
        if not self.has_conversation:
            self.has_conversation = self.has_taken_prompt = True
            self.on_prompt_taken()

    def note_event(self, event: ExecutorEvent) -> None:
        self._silence.note(event.kind)
        self._expectations.note_event(event)
        run = self._assignment.run
        if run.type == "resume_session":
            self._note_prompt_taken()
        if event.shows_progress:
            self._limit = None
            self._limits.passed(run.run_id)


def _sum(earlier: Usage | None, now: Usage) -> Usage:
    return now if earlier is None else earlier.plus(now)
