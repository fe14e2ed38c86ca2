"""Recovers runs that the coordinator counts as claimed by this runner although no response delivered them."""

import asyncio
from collections.abc import Callable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import UnreadableRun
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import NotAuthenticated, Refused, Unreachable
from fsm_runner.coordinator_client.policy import EXECUTOR_MESSAGE_LIMIT_S
from fsm_runner.journal.journal import JournalUnreadable
from fsm_runner.protocol import wire
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.blueprint import unresolved

FORGOTTEN = "lost: this runner started the run, and neither its process nor a record in the journal is left"
PERHAPS_STARTED = (
    "lost: the run was claimed before this runner's journal began, so an earlier process may have started it; "
    "submit it again"
)
ENDED = "lost: the run ended at this runner before, and its outcome is no longer known"
LOST = "lost: the response that delivered this run to its runner did not arrive, and the run cannot be restored"

MayClaim = Callable[[], bool]
"""Returns whether the runner may claim another run now."""


class LostClaims:
    """Starts the claimed runs of the coordinator's list that are unknown here, each at most once.

    A run that neither this process nor the journal knows was not started by this runner, because a claim is on disk
    before its run is started. If the journal was lost, that conclusion fails: a runner with a new journal therefore
    fails the claims that it finds first. A claim that appears later was made by an abandoned poll whose response is
    lost.
    """

    def __init__(self, client: CoordinatorClient, runs: RunRegistry, may_claim: MayClaim, *, has_history: bool) -> None:
        """`has_history` says whether an earlier process of this runner has written to the journal."""
        self._client = client
        self._runs = runs
        self._may_claim = may_claim
        self._are_new = has_history
        """True if no earlier process can have started an unknown claim, as is the case after the first list."""
        self._unanswered_since_s: dict[str, float] = {}
        """The times at which runs began to wait for the definition of their agent, by run id."""

    async def start_all(self, runner_id: str) -> bool:
        """Return whether all lost claims were handled. Raises `CoordinatorError` if the list is not available."""
        listed = await self._client.api.held(runner_id, "claimed")
        names = {run.run_id for run in listed}
        self._unanswered_since_s = {run: at for run, at in self._unanswered_since_s.items() if run in names}
        is_complete = True
        for run in listed:
            attempt = 0 if isinstance(run, UnreadableRun) else run.attempt
            if self._runs.is_active(run.run_id, attempt) or self._runs.resend_final_report(run.run_id):
                continue
            if not self._may_claim():
                return False
            if not self._are_new:
                self._runs.fail(run.run_id, runner_id, PERHAPS_STARTED)
            elif isinstance(run, UnreadableRun):
                self._runs.fail_unreadable(run, runner_id)
            elif not await self._start(run, runner_id):
                is_complete = False
        self._are_new = True
        return is_complete

    async def fail_forgotten(self, runner_id: str) -> None:
        """Fail runs that an earlier process started and whose record is gone. Raises `CoordinatorError`."""
        for run in await self._client.api.held(runner_id, "running"):
            if self._runs.at_hard_limit:
                return
            if not self._runs.is_active(run.run_id) and not self._runs.resend_final_report(run.run_id):
                self._runs.fail(run.run_id, runner_id, FORGOTTEN)

    async def _start(self, run: wire.Run, runner_id: str) -> bool:
        """Return False if the run has to wait for its agent's definition, for capacity or for the journal."""
        try:
            if not self._runs.is_active(run.run_id) and await self._runs.was_claimed(run.run_id):
                self._runs.fail(run.run_id, runner_id, ENDED)
                return True
        except JournalUnreadable as fault:
            logger.debug("{}: not started, since it may have ended here before: {}", run.run_id, fault)
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
        if not self._may_claim():  # the runner may have begun to leave during the calls above
            return False
        logger.warning("{}: claimed by a poll whose response did not arrive; it is started now", run.run_id)
        self._runs.start(run, runner_id)
        return True

    async def _blueprint(self, agent_name: str) -> wire.JsonObject:
        """Return the agent as the claim would have contained it.

        Raises `_CannotRestore`, `Unreachable` or `NotRegistered`.
        """
        try:
            definition = await self._client.api.agent_definition(agent_name)
        except NotAuthenticated:
            raise
        except Refused as refusal:
            raise _CannotRestore(f"agent {agent_name!r} is not available: {refusal}") from refusal
        if missing := unresolved(definition):
            names = ", ".join(missing)
            raise _CannotRestore(f"only the coordinator can replace the placeholders of agent {agent_name!r}: {names}")
        return definition

    def _wait_for_agent(self, run: wire.Run, runner_id: str, fault: Unreachable) -> bool:
        """Return False while the run waits for its agent; after `EXECUTOR_MESSAGE_LIMIT_S` fail it and return True."""
        # On the loop's clock, because the coordinator answers nothing while this process is stopped.
        now_s = asyncio.get_running_loop().time()
        if now_s - self._unanswered_since_s.setdefault(run.run_id, now_s) < EXECUTOR_MESSAGE_LIMIT_S:
            return False
        self._runs.fail(run.run_id, runner_id, f"{LOST}: agent {run.agent_name!r} is not available: {fault}")
        return True


class _CannotRestore(Exception):
    """The reason, which completes the run's error."""
