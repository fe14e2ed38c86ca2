"""The waits of one run for limits of its provider."""

import asyncio

import msgspec

from fsm_runner.protocol import wire
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.reporting import messages
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.runtime.actors.executions import Executions
from fsm_runner.runtime.actors.run_context import RunContext
from fsm_runner.runtime.control.provider_limits import LimitWait, NotWaitedFor, ProviderLimits


class LimitWaits:
    """Plans the waits, and records them in the journal and at the coordinator."""

    def __init__(
        self,
        run: wire.Run,
        context: RunContext,
        limits: ProviderLimits,
        executions: Executions,
    ) -> None:
        self._run = run
        self._limits = limits
        self._executions = executions
        self._reporting = context.reporting
        self._record = context.record
        self.current: LimitWait | None = None
        """The wait that begins or lasts; None if the run is not to wait."""
        self._count = 0
        """How often the run has met a limit and waited."""

    @property
    def can_last(self) -> bool:
        """Whether the run waits and can continue after that."""
        return self.current is not None and self._executions.can_continue

    @property
    def is_over(self) -> bool:
        """Whether the limit has reset, so that the run waits only for a slot."""
        return self.current is not None and self._limits.is_over(self.current)

    def restore(self, wait: LimitWait) -> None:
        """Take over the wait that the run began in an earlier process of the runner."""
        self.current, self._count = wait, wait.number
        self._limits.restore(wait)

    def plan(self, limit: ProviderLimit) -> str:
        """Plan a wait for a limit that the run has met, if it may wait. Return a part of the reason of its step."""
        self._limits.reached(limit, self._run.run_id)
        plan = self._limits.plan(limit, self._count + 1)
        if isinstance(plan, LimitWait):
            if self._executions.can_continue:
                self.current, self._count = plan, plan.number
                return str(limit)
            plan = NotWaitedFor("its executor has ended, and the profile does not set `revive`")
        self._report(limit)
        return f"{limit}; the run does not wait for that: {plan.reason}"

    def begin(self) -> float | None:
        """Begin the wait, or continue it. Return how long it may last, in seconds; None: without a limit."""
        self.current = wait = self._executions.with_progress(self.current or self._limits.hold_back(self._count))
        self._record.record_wait(self._run.run_id, self._reporting.redactor.json(msgspec.json.encode(wait)))
        self._report(wait.limit)
        return self._limits.left_s(wait)

    def end(self, *, keeps_limit: bool) -> None:
        """End the wait, if there is one. `keeps_limit`: the session's field `limit` says why the run has failed."""
        if self.current is None:
            return
        self.current = None
        self._record.record_wait(self._run.run_id, None)
        if not keeps_limit:
            self._report(None)

    async def wait_for_admission(self) -> None:
        """Return when the run may continue. Raises `ExecutionFailed` once it cannot continue any more."""
        if self.current is None:
            return
        run_id = self._run.run_id
        admitted = asyncio.create_task(
            self._limits.wait_for_admission(run_id, self.current), name=f"{run_id} admission"
        )
        lost = asyncio.create_task(self._executions.wait_until_lost(), name=f"{run_id} executor")
        try:
            await asyncio.wait({admitted, lost}, return_when=asyncio.FIRST_COMPLETED)
            await (lost if lost.done() else admitted)
        finally:
            admitted.cancel()
            lost.cancel()
            await asyncio.wait({admitted, lost})

    def _report(self, limit: ProviderLimit | None) -> None:
        """Set or clear the session's field `limit` at the coordinator (protocol.md, section 1.4)."""
        body = self._reporting.redactor.json(encode_json({"limit": limit}))
        # Not among the messages that a stop withdraws.
        message = messages.metadata(self._run.session_id, body, self._run)
        self._reporting.outbox.put(self._run.session_id, message)
