"""Runs that the coordinator holds for this runner although no answer brought them here."""

import asyncio
from collections.abc import Callable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi, UnreadableRun
from fsm_runner.coordinator_client.errors import NotAuthenticated, Refused, Unreachable
from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.journal.journal import JournalUnreadable
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.blueprint import unresolved

FORGOTTEN = "lost: this runner has begun the run, and nothing of it is left, nor in its journal"
PERHAPS_BEGUN = (
    "lost: the run was claimed before this runner's journal began, so an earlier process may have begun it; "
    "submit it again"
)
ENDED = "lost: this runner has ended the run before, and no longer has its outcome"
LOST = "lost: the answer that brought this run to its runner did not arrive, and the run cannot be restored"

Course = Callable[[], bool]
"""Whether the runner may take up another run now."""


class LostClaims:
    """Takes up runs from the coordinator's list, each at most once.

    A run of the list was not begun here where neither this process nor the journal knows it: a run is on disk before
    it is begun. That says nothing where the journal was lost, so a runner with a new journal fails the claims that it
    finds first. Runs that appear later were claimed by a poll that was given up, and the answer of that poll is lost.
    """

    def __init__(self, api: CoordinatorApi, runs: RunRegistry, *, has_history: bool) -> None:
        """`has_history`: the journal is one that an earlier process of this runner has written to."""
        self._api = api
        self._runs = runs
        self._are_new = has_history
        """Whether a claim that is unknown here cannot have been begun by an earlier process."""
        self._unanswered_since_s: dict[str, float] = {}
        """Since when runs wait for the definition of their agent."""

    async def take_up(self, runner_id: str, may_take_up: Course) -> bool:
        """Returns whether all of them were handled. Raises `CoordinatorError` if the list is not available."""
        listed = await self._api.held(runner_id, "claimed")
        names = {run.run_id for run in listed}
        self._unanswered_since_s = {run: at for run, at in self._unanswered_since_s.items() if run in names}
        is_complete = True
        for run in listed:
            if self._runs.is_active(run.run_id) or self._runs.resend_final_report(run.run_id):
                continue
            if not may_take_up():
                return False
            if not self._are_new:
                self._runs.fail(run.run_id, runner_id, PERHAPS_BEGUN)
            elif isinstance(run, UnreadableRun):
                self._runs.fail_unreadable(run, runner_id)
            elif not await self._start(run, runner_id, may_take_up):
                is_complete = False
        self._are_new = True
        return is_complete

    async def fail_forgotten(self, runner_id: str) -> None:
        """Those that an earlier process has begun, whose journal is gone. Raises `CoordinatorError`."""
        for run in await self._api.held(runner_id, "running"):
            if self._runs.at_hard_limit:
                return
            if not self._runs.is_active(run.run_id) and not self._runs.resend_final_report(run.run_id):
                self._runs.fail(run.run_id, runner_id, FORGOTTEN)

    async def _start(self, run: wire.Run, runner_id: str, may_take_up: Course) -> bool:
        """False where the run has to wait: for its agent's definition, for room, or for the journal."""
        try:
            if await self._runs.was_claimed(run.run_id):
                self._runs.fail(run.run_id, runner_id, ENDED)
                return True
        except JournalUnreadable as fault:
            logger.debug("{}: not taken up, since it may have ended here: {}", run.run_id, fault)
            return False
        if run.agent_name is not None and run.resolved_agent_blueprint is None:
            try:
                blueprint = await self._blueprint(run.agent_name)
            except Unreachable as fault:
                return self._wait_for_agent(run, runner_id, fault)
            except _CannotRestore as reason:
                self._runs.fail(run.run_id, runner_id, f"{LOST}: {reason}; submit it again")
                return True
            run = msgspec.structs.replace(run, resolved_agent_blueprint=blueprint)
        if not may_take_up():  # the runner may have begun to leave meanwhile
            return False
        logger.warning("{}: claimed by a poll whose answer did not arrive; it is taken up now", run.run_id)
        self._runs.start(run, runner_id)
        return True

    async def _blueprint(self, agent_name: str) -> wire.JsonObject:
        """The agent as the run would have brought it. Raises `_CannotRestore`, `Unreachable` or `NotRegistered`."""
        try:
            definition = await self._api.agent(agent_name, wire.JsonObject)
        except NotAuthenticated:
            raise
        except Refused as refusal:
            raise _CannotRestore(f"agent {agent_name!r} is not available: {refusal}") from refusal
        if missing := unresolved(definition):
            shown = ", ".join(missing)
            raise _CannotRestore(f"only the coordinator can fill in what agent {agent_name!r} refers to: {shown}")
        return definition

    def _wait_for_agent(self, run: wire.Run, runner_id: str, fault: Unreachable) -> bool:
        """False while the run waits for its agent, which does not hold up other runs; in the end the run fails."""
        now_s = asyncio.get_running_loop().time()
        waited_s = now_s - self._unanswered_since_s.setdefault(run.run_id, now_s)
        if waited_s < EXECUTOR_MESSAGE_LIMIT_S:
            return False
        self._runs.fail(run.run_id, runner_id, f"{LOST}: agent {run.agent_name!r} is not available: {fault}")
        return True


class _CannotRestore(Exception):
    """The text completes the run's error."""
