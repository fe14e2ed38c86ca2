"""The queue as the runners' polls see it: what they claim, and when they are woken. The runs are in the store."""

from collections.abc import Iterable

import msgspec

from fsm_runner.coordinator_server.agents import AgentCatalog
from fsm_runner.coordinator_server.demand_classes import DemandClasses
from fsm_runner.coordinator_server.registry import WaitingPoll
from fsm_runner.coordinator_server.store.interface import ClaimedRun, DemandClass, RunRow, Store
from fsm_runner.coordinator_server.waiting_polls import WaitingPolls

CLASSES_PER_TICK = 100
"""The most classes for which a tick wakes polls although they were ready before: it compares each with each poll."""


class Claim(msgspec.Struct, frozen=True):
    """A run that a poll has claimed, before the response is certain."""

    claimed: ClaimedRun
    demand_class: DemandClass


class RunQueue:
    def __init__(self, store: Store, agents: AgentCatalog) -> None:
        self._store = store
        self._agents = agents
        self._classes = DemandClasses()
        self._first_of_tick = 0
        """The place of the first class for which the next tick wakes a poll."""
        self.polls = WaitingPolls(self._classes)

    def add(self, class_id: int, demand_class: DemandClass) -> None:
        """A run was queued: wake a poll for it."""
        self._classes.add(class_id, demand_class)
        self.polls.wake_for([class_id])

    def note_end(self, run: RunRow) -> None:
        """A run has ended: wake a poll for a run that its agent's `max_running` has delayed."""
        if run.limited_agent is not None:
            self._wake_for_agents([run.limited_agent])

    async def close_runner(self, runner_id: str, reason: str, *, may_requeue: bool = True) -> list[str]:
        """Close the runs and sessions of a runner that has left. Return the sessions whose runs are queued again.

        `may_requeue` False: there are none.
        """
        closed = await self._store.close_runner(runner_id, reason, may_requeue=may_requeue)
        self._wake_for_agents(closed.limited_agents)
        if closed.requeued_sessions or closed.has_unpinned:
            await self.tick()  # which reads their classes
        return closed.requeued_sessions

    async def tick(self) -> None:
        """Apply what time has changed, and wake polls for classes with runs, which repairs a missed wake-up too."""
        since = self._classes.now
        self.polls.wake_for(self._classes.replace(await self._store.tick(), since))
        ready = self._classes.ready
        self._first_of_tick %= max(len(ready), 1)
        self.polls.wake_for(ready[self._first_of_tick : self._first_of_tick + CLASSES_PER_TICK])
        self._first_of_tick += CLASSES_PER_TICK

    async def claim(self, poll: WaitingPoll) -> Claim | None:
        """Claim a run for a poll; None: there is none. The database is not asked if the poll may claim none.

        The caller holds the runner's `claim_lock`.
        """
        woken_for, poll.woken_for = poll.woken_for, set()
        offered = self._classes.claimable(poll.runner)
        if not offered:
            self.polls.wake_for(woken_for)  # its runner may be leaving, or have registered with other capabilities
            return None
        since = self._classes.now
        poll.is_looking = True
        try:
            claimed = await self._store.claim(
                poll.runner.runner_id, poll.registration, list(offered), self._agents.max_running
            )
        finally:
            poll.is_looking = False
        # A claim finds no run of an agent that is at its limit, so only a tick says that its class has none.
        if claimed is None:
            self._classes.discard((each for each, known in offered.items() if known.limited_agent is None), since)
            return None
        poll.woken_for |= woken_for
        demand_class = offered[claimed.class_id]
        if claimed.has_more:
            poll.woken_for.add(claimed.class_id)
        elif demand_class.limited_agent is None:
            self._classes.discard([claimed.class_id], since)
        return Claim(claimed, demand_class)

    async def release(self, claim: Claim) -> None:
        """Undo a claim whose response no client receives."""
        await self._store.release(claim.claimed.run_id)
        self.add(claim.claimed.class_id, claim.demand_class)

    def _wake_for_agents(self, names: Iterable[str]) -> None:
        self.polls.wake_for(self._classes.of_agents(frozenset(names)))
