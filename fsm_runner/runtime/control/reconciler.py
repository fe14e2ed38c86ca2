"""Recovers what lost responses carried, from the coordinator's list of runs.

A poll delivers a run or a stop once (protocol.md, section 1.1). If its response is lost, the list of runs still shows
the claim and the stop request.
"""

from collections.abc import Callable, Iterable

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S
from fsm_runner.protocol import wire
from fsm_runner.protocol.approvals import DecisionRequest
from fsm_runner.runtime.actors.run_registry import RunRegistry
from fsm_runner.runtime.control.lost_claims import LostClaims, MayClaim

ReceiveDecisions = Callable[[Iterable[DecisionRequest]], None]
"""Takes decisions about approvals, perhaps not for the first time. Must not block."""

STOP_REQUESTED = "the coordinator asks for it"


def ignore_decisions(_: Iterable[DecisionRequest]) -> None:
    """For a runner without workflows."""


class ReconciliationWindow:
    """The period in which a response may have been lost. Times are seconds of the client's clock.

    A poll whose connection broke is still held at the coordinator, and may claim a run until the end of its hold
    time. So only a look-up that began after that time closes the window.
    """

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._next_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._until_s is not None

    def open(self, now_s: float, held_for_s: float = 0.0) -> None:
        """Open or extend the window. The coordinator may hold the lost call for `held_for_s` more."""
        until_s = now_s + held_for_s + POLL_MARGIN_S if held_for_s > 0 else now_s
        self._until_s = until_s if self._until_s is None else max(self._until_s, until_s)
        self._next_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Return whether the window is open and the interval since the last look-up is over."""
        return self.is_open and now_s >= self._next_s

    def close(self, looked_up_s: float) -> None:
        """Close the window if the look-up that began at `looked_up_s`, and was answered, covers it."""
        if self._until_s is not None and looked_up_s >= self._until_s:
            self._until_s = None
        self.postpone(looked_up_s)

    def postpone(self, looked_up_s: float) -> None:
        """Schedule the next look-up one interval after `looked_up_s`."""
        self._next_s = looked_up_s + RUN_LOOKUP_INTERVAL_S


class Reconciler:
    """Compares the coordinator's list of runs with those of the runner: claims, and requested stops."""

    def __init__(
        self,
        client: CoordinatorClient,
        runs: RunRegistry,
        may_claim: MayClaim,
        receive: ReceiveDecisions = ignore_decisions,
        *,
        has_history: bool,
    ) -> None:
        """`has_history` says whether an earlier process of this runner has written to the journal."""
        self._client = client
        self._receive = receive
        self._runs = runs
        self._may_claim = may_claim
        self._lost_claims = LostClaims(client, runs, may_claim, has_history=has_history)
        self._window = ReconciliationWindow()
        self._ambiguous_stops: set[str] = set()
        """Sessions that have several runs, one of which must be stopped. The next look-up names it."""

    @property
    def is_due(self) -> bool:
        """True if the runs must be reconciled before the next poll."""
        return self._window.is_due(self._client.now_s())

    @property
    def expects_loss(self) -> bool:
        """True until a look-up has shown everything that a lost response may have carried."""
        return self._window.is_open

    def expect_loss(self, held_for_s: float = 0.0) -> None:
        """Note that a response may be lost. The coordinator may hold its call for `held_for_s` more."""
        self._window.open(self._client.now_s(), held_for_s)

    def stop_session(self, session_id: str) -> None:
        """Stop the run of a session, or find the run that is meant if the session has several.

        A poll names a session only: of its runs, one may have been rejected while another one is active.
        """
        if self._runs.count_of_session(session_id) > 1:
            self._ambiguous_stops.add(session_id)
            self.expect_loss()
        else:
            self._runs.stop_session(session_id, STOP_REQUESTED)

    async def reconcile(self, runner_id: str) -> None:
        """Start or fail lost claims, and stop runs. A call that fails is repeated one interval later."""
        began_s = self._client.now_s()
        is_complete, may_claim = False, self._may_claim()
        try:
            if may_claim:
                await self._lost_claims.fail_forgotten(runner_id)
                is_complete = await self._lost_claims.start_all(runner_id)
                may_claim = is_complete or self._may_claim()
            await self._stop_runs(runner_id)
        except CoordinatorError as fault:
            self._postpone(fault)
            return
        if may_claim and not self._runs.at_hard_limit:
            if is_complete:
                self._window.close(began_s)
            # The interval begins at the end: however long a look-up takes, a poll comes before the next one.
            self._window.postpone(self._client.now_s())

    async def look_up_stops(self, runner_id: str) -> None:
        """Stop runs, and hand on decisions about approvals. A call that fails is not repeated here."""
        try:
            await self._stop_runs(runner_id)
        except CoordinatorError as fault:
            self._postpone(fault)

    def _postpone(self, fault: CoordinatorError) -> None:
        logger.debug("runs could not be looked up: {}", fault)
        self._window.postpone(self._client.now_s())

    async def _stop_runs(self, runner_id: str) -> None:
        found = await self._client.api.client_requests()
        self._receive(each for each in found.decisions if each.runner_id == runner_id)
        requests = [each for each in found.stops if each.runner_id == runner_id]
        for request in requests:
            try:
                run_id = msgspec.convert(request.run_id, wire.Identifier)
            except (msgspec.ValidationError, RecursionError):
                continue  # the run could not be reported
            if self._runs.is_active(run_id):
                self._runs.stop_run(run_id, STOP_REQUESTED)
            elif not self._runs.at_hard_limit and not self._runs.resend_final_report(run_id):
                self._runs.report_stopped(run_id, runner_id)
        for session_id in self._ambiguous_stops.difference(request.session_id for request in requests):
            self._runs.stop_session(session_id, STOP_REQUESTED)
        self._ambiguous_stops.clear()
