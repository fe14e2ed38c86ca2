"""The long poll: held until there is something to report to its runner (protocol.md, section 1.1)."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from fsm_runner.coordinator_server.agents import AgentCatalog
from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.errors import RegistrationSuperseded, RunnerNotRegistered, Unavailable
from fsm_runner.coordinator_server.registry import Presence, Registry, Runner, WaitingPoll
from fsm_runner.coordinator_server.run_queue import RunQueue
from fsm_runner.coordinator_server.store.interface import ClaimedRun, Store
from fsm_runner.protocol.wire import JsonObject

IsDisconnected = Callable[[], Awaitable[bool]]
"""Returns whether the event loop has read the end of the client's connection."""


class PollResponse(msgspec.Struct, frozen=True):
    content: JsonObject
    fenced_run_id: str | None = None
    """The run of a fenced claim in the response. Call `Polls.note_written` once the response is written."""


class Polls:
    """Answers polls. It delivers a run, stop or sync only to a client that is still connected."""

    def __init__(
        self,
        registry: Registry,
        agents: AgentCatalog,
        queue: RunQueue,
        store: Store,
        approvals: ApprovalDesk,
        timeout_s: float,
    ) -> None:
        self._registry = registry
        self._agents = agents
        self._queue = queue
        self._store = store
        self._approvals = approvals
        self._timeout_s = timeout_s
        self._is_closed = False
        """Whether the coordinator is stopping: its runners would not receive a run that is claimed now."""

    def close(self) -> None:
        """End the held polls at once, without content, and claim no further runs."""
        self._is_closed = True
        self._registry.wake_all()

    async def hold(self, poll: WaitingPoll, is_disconnected: IsDisconnected) -> PollResponse | None:
        """Return the response; None: the time is over.

        Raises `RunnerNotRegistered` if the runner is removed, and `RegistrationSuperseded` if it registers again.
        """
        loop, runner = asyncio.get_running_loop(), poll.runner
        deadline = loop.time() + self._timeout_s
        with self._queue.polls.waiting(poll):
            while True:
                poll.woken.clear()
                if await is_disconnected() or self._is_closed:
                    return None
                if content := self._queued(poll) or await self._deregister(runner, is_disconnected):
                    return PollResponse(content)
                # A response with decisions that is lost is repeated, so this does not check the connection again.
                if decisions := await self._approvals.for_poll(runner.runner_id):
                    return PollResponse({"approvals": decisions})
                if run := await self._untold_claim(poll, is_disconnected) or await self._claim(poll, is_disconnected):
                    self._registry.record_served(runner)
                    return PollResponse({"run": run.run}, None if poll.registration is None else run.run_id)
                due_s = self._approvals.due_s(runner.runner_id)
                # The clock of the approvals may be that of a test.
                left_s = math.inf if due_s is None else due_s - self._approvals.now_s()
                try:
                    async with asyncio.timeout_at(min(deadline, loop.time() + left_s)):
                        await poll.woken.wait()
                except TimeoutError:
                    if loop.time() >= deadline:
                        return None

    async def note_written(self, poll: WaitingPoll, response: PollResponse, *, is_lost: bool) -> None:
        """Note that the response was written. `is_lost`: the connection has ended, perhaps before."""
        if response.fenced_run_id is None:
            return
        if is_lost:
            poll.runner.has_untold_claim = True
        else:
            with suppress(Unavailable):  # logged by the store; the runner may get the run again, and ignores it
                await self._store.note_told(response.fenced_run_id)

    def _queued(self, poll: WaitingPoll) -> JsonObject | None:
        runner = poll.runner
        if poll.is_superseded:
            raise RegistrationSuperseded(runner.runner_id)
        if runner.presence is Presence.DEREGISTERED:
            return {"deregistered": True}
        if runner.presence is Presence.EXPIRED:
            raise RunnerNotRegistered
        if stops := self._registry.take_stops(runner.runner_id):
            return {"stop_sessions": stops}
        if runner.scripts_to_sync:
            scripts, runner.scripts_to_sync = runner.scripts_to_sync, []
            return {"sync_scripts": scripts, "remove_scripts": []}
        return None

    async def _deregister(self, runner: Runner, is_disconnected: IsDisconnected) -> JsonObject | None:
        """Remove a runner that a client has deregistered, together with the response that reports this."""
        if runner.presence is not Presence.LEAVING:
            return None
        async with runner.claim_lock:
            await self._queue.close_runner(runner.runner_id, "The runner was deregistered", may_requeue=False)
            if await is_disconnected() or runner.presence is not Presence.LEAVING:
                return None
            self._registry.remove(runner, Presence.DEREGISTERED)
            self._agents.replace_owned(runner.runner_id, ())
        return {"deregistered": True}

    async def _untold_claim(self, poll: WaitingPoll, is_disconnected: IsDisconnected) -> ClaimedRun | None:
        """Return a run that the runner has claimed with a poll whose response was not written."""
        runner = poll.runner
        if poll.registration is None or not runner.has_untold_claim:
            return None
        async with runner.claim_lock:
            claimed = await self._store.untold_claim(runner.runner_id)
            if await self._is_unwanted(poll, is_disconnected):
                return None
            runner.has_untold_claim = claimed is not None  # and perhaps more
            return claimed

    async def _claim(self, poll: WaitingPoll, is_disconnected: IsDisconnected) -> ClaimedRun | None:
        async with poll.runner.claim_lock:
            claim = await self._queue.claim(poll)
            if claim is None:
                return None
            if await self._is_unwanted(poll, is_disconnected):
                try:
                    await self._queue.release(claim)
                except Unavailable:
                    poll.runner.has_untold_claim = True
                    raise
                return None
            return claim.claimed

    async def _is_unwanted(self, poll: WaitingPoll, is_disconnected: IsDisconnected) -> bool:
        """Return whether the client would not receive a run, or may have none any more."""
        return await is_disconnected() or not poll.runner.accepts_runs or poll.is_superseded or self._is_closed
