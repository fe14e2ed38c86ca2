"""Waiting for the end of a run, in `sync` mode (protocol.md, section 4)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.mcp_server.event_stream import SessionEvents
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.util.retry import Waits
from fsm_runner.util.tasks import background_task

ReportProgress = Callable[[float, str], Awaitable[None]]
"""Sends a progress notification to the client: seconds so far, and a text."""


class RunWaiter:
    """Waits for one run. The run's status decides, not its session's.

    It looks the run up when its session's events arrive, every `recheck_s` in any case, and as often as the policy
    `look_up` says while no event stream is open.
    """

    def __init__(
        self, api: CoordinatorApi, run: wire.RunCreated, limits: Limits, report_progress: ReportProgress
    ) -> None:
        self._api = api
        self._run = run
        self._limits = limits
        self._report_progress = report_progress
        self._changed = asyncio.Event()
        self._events = SessionEvents(api, run.session_id, self._changed.set, limits.stream)
        self._status = run.status
        self._is_unreachable = False
        """Whether the last look-up failed. If so, the next one must not wait for an event."""
        self._looked_up_at = 0.0

    async def wait(self) -> wire.RunState:
        """Return the run once it has ended. Raises `Refused` if the coordinator does not know the run.

        The caller sets the time limit. Outages of the coordinator do not end the wait.
        """
        async with (
            background_task(self._events.follow(), f"mcp-events-{self._run.run_id}"),
            background_task(self._report_regularly(), f"mcp-progress-{self._run.run_id}"),
        ):
            waits = Waits(self._limits.look_up)
            while True:
                self._changed.clear()
                state = await self._look_up()
                if state is not None and state.status in TERMINAL_RUN_STATUSES:
                    return state
                if self._events.is_open and not self._is_unreachable:
                    waits.reset()
                    await self._pause(self._limits.recheck_s)
                else:
                    await self._pause(waits.next_s())

    async def result(self) -> wire.SessionResult:
        """Return the session's result once the run has completed; an empty one if there is none. Raises `Refused`."""
        waits = Waits(self._limits.look_up)
        while True:
            try:
                return await self._api.session_result(self._run.session_id)
            except CoordinatorError as fault:
                if isinstance(fault, Refused) and fault.status == httpx.codes.NOT_FOUND:
                    return wire.SessionResult()
                if is_final(fault):
                    raise
                logger.debug("mcp: {}: the result cannot be fetched yet: {}", self._run.run_id, fault)
            await asyncio.sleep(waits.next_s())

    async def _look_up(self) -> wire.RunState | None:
        """Return the run's state; None while the coordinator is unreachable."""
        self._looked_up_at = time.monotonic()
        try:
            state = await self._api.run_state(self._run.run_id)
        except CoordinatorError as fault:
            if is_final(fault):
                raise
            logger.debug("mcp: {}: the run cannot be looked up yet: {}", self._run.run_id, fault)
            self._is_unreachable = True
            return None
        self._status, self._is_unreachable = state.status, False
        return state

    async def _pause(self, longest_s: float) -> None:
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._looked_up_at + self._limits.look_up_spacing_s - time.monotonic())

    async def _report_regularly(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._limits.progress_interval_s)
            so_far_s = time.monotonic() - began
            status = f"{self._status}; the coordinator is unreachable" if self._is_unreachable else self._status
            await self._report_progress(so_far_s, f"running for {so_far_s:.0f} s (status {status})")


def is_final(fault: CoordinatorError) -> bool:
    """Return whether a retry is useless. Refused credentials are renewed, so they are not final."""
    return isinstance(fault, Refused) and not isinstance(fault, NotAuthenticated)
