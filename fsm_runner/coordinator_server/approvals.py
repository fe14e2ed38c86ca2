"""Approvals of workflows: their decisions are handed to the runners until these show that they have them."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

import msgspec

from fsm_runner.coordinator_server.errors import AlreadyDecided
from fsm_runner.coordinator_server.registry import Registry
from fsm_runner.coordinator_server.store.interface import Store
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.approvals import (
    ApprovalAnswer,
    ApprovalList,
    Decided,
    DecisionRequest,
    DecisionResponse,
)
from fsm_runner.protocol.event_clock import utc_now


class ApprovalDesk:
    """Lists pending approvals, and takes decisions about them."""

    def __init__(self, registry: Registry, store: Store, timings: Timings, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._store = store
        self._timings = timings
        self._clock = clock
        self._next_s: dict[str, float] = {}
        """When a poll of the runner may have its decisions again. Runners without decisions may be in it."""
        self._changed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        """For requests that wait for a confirmation, by session id."""

    async def open(self) -> None:
        """Find the decisions that an earlier process has not delivered."""
        for request in await self._store.undelivered_decisions():
            self._next_s[request.runner_id or ""] = self._clock()

    async def pending(self) -> ApprovalList:
        return ApprovalList(await self._store.pending_approvals())

    async def decide(self, run_id: str, answer: ApprovalAnswer, by: str) -> DecisionResponse:
        """Decide the pending approval of a run, and wait for a while until its runner confirms the decision.

        Raises `NotFound`, `AlreadyDecided`, or `Conflict` if the run waits for no approval.
        """
        request = DecisionRequest(
            run_id=run_id,
            visit=0,  # the store sets it
            approved=answer.approved,
            by=by,
            comment=answer.comment,
            at=utc_now(),
            id=secrets.token_hex(8),
        )
        session_id = (await self._store.run_row(run_id)).session_id
        changed = asyncio.Event()
        self._changed[session_id].add(changed)
        try:
            stored = await self._store.add_decision(request)
            if stored.id == request.id:
                self._deliver_soon(stored.runner_id or "")
            decided = await self._confirmed(stored, changed)
        finally:
            self._changed[session_id].discard(changed)
            if not self._changed[session_id]:
                del self._changed[session_id]
        counted = decided or msgspec.convert(stored, Decided, from_attributes=True)
        if counted.id != request.id:
            raise AlreadyDecided(run_id, counted)
        return DecisionResponse(confirmed=decided is not None, decision=counted)

    async def note_workflow(self, session_id: str) -> None:
        """The runner has changed the `workflow` of a session."""
        await self._store.note_workflow(session_id)
        for changed in self._changed.get(session_id, ()):
            changed.set()

    async def undelivered(self) -> list[DecisionRequest]:
        """Return the decisions for all runners, without delay."""
        if not self._next_s:
            return []
        return await self._store.undelivered_decisions()

    def now_s(self) -> float:
        return self._clock()

    def due_s(self, runner_id: str) -> float | None:
        """Return when a poll of the runner has to ask for decisions, by the clock; None: not at all."""
        return self._next_s.get(runner_id)

    async def for_poll(self, runner_id: str) -> list[DecisionRequest]:
        """Return the runner's decisions, at most every `redelivery_s`, because a response may be lost."""
        due_s = self._next_s.get(runner_id)
        if due_s is None or due_s > self._clock():
            return []
        self._next_s[runner_id] = self._clock() + self._timings.redelivery_s
        requests = [each for each in await self.undelivered() if each.runner_id == runner_id]
        if not requests:
            self._next_s.pop(runner_id, None)
        return requests

    def _deliver_soon(self, runner_id: str) -> None:
        self._next_s[runner_id] = self._clock()
        if runner := self._registry.get(runner_id):
            runner.wake()

    async def _confirmed(self, request: DecisionRequest, changed: asyncio.Event) -> Decided | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timings.confirmation_s):
                while True:
                    decided = await self._store.decision_outcome(request)
                    if decided is not None:
                        return decided
                    await changed.wait()
                    changed.clear()
        return None
