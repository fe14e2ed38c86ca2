"""Waiting for the end of a run that this runner has submitted."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.coordinator_client.event_stream import SessionEvents
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.util.retry import RetryPolicy, Waits
from fsm_runner.util.tasks import background_task


class WaitPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a run is looked up."""

    recheck_s: float = 10.0
    """The interval between look-ups of a run while its session's events arrive."""
    look_up_spacing_s: float = 0.05
    """The shortest interval between look-ups of a run, however fast its session's events arrive."""
    look_up: RetryPolicy = RetryPolicy(base_s=0.5, cap_s=5)
    """Waits between look-ups while no event stream is open or the coordinator is unreachable."""
    stream: RetryPolicy = RetryPolicy(base_s=1, cap_s=30)
    """Waits before an event stream is opened again."""


class RunWaiter:
    """Waits for one run. The run's status decides, not its session's.

    It looks the run up when its session's events arrive, every `recheck_s` in any case, and as often as the policy
    `look_up` says while no event stream is open.
    """

    def __init__(
        self,
        api: CoordinatorApi,
        run: wire.RunCreated,
        policy: WaitPolicy,
        stream_slot: AbstractAsyncContextManager[Any] | None = None,
    ) -> None:
        """`stream_slot`: held while the event stream is read, which needs a connection. None: there is no limit."""
        self._api = api
        self._run = run
        self._policy = policy
        self._stream_slot = stream_slot or nullcontext()
        self._changed = asyncio.Event()
        self._events = SessionEvents(api, run.session_id, self._changed.set, policy.stream)
        self._status = run.status
        self._is_unreachable = False
        """Whether the last look-up failed. If so, the next one must not wait for an event."""
        self._looked_up_at = 0.0

    @property
    def status_text(self) -> str:
        """The last known status of the run, and whether the coordinator is unreachable."""
        return f"{self._status}; the coordinator is unreachable" if self._is_unreachable else self._status

    async def wait(self) -> wire.RunState:
        """Return the run once it has ended. Raises `Refused` if the coordinator does not know the run.

        The caller sets the time limit. Outages of the coordinator do not end the wait.
        """
        async with background_task(self._follow_events(), f"events of {self._run.run_id}"):
            waits = Waits(self._policy.look_up)
            while True:
                self._changed.clear()
                state = await self._look_up()
                if state is not None and state.status in TERMINAL_RUN_STATUSES:
                    return state
                if self._events.is_open and not self._is_unreachable:
                    waits.reset()
                    await self._pause(self._policy.recheck_s)
                else:
                    await self._pause(waits.next_s())

    async def result(self) -> wire.SessionResult:
        """Return the session's result once the run has completed; an empty one if there is none. Raises `Refused`."""
        waits = Waits(self._policy.look_up)
        while True:
            try:
                return await self._api.session_result(self._run.session_id)
            except CoordinatorError as fault:
                if isinstance(fault, Refused) and fault.status == httpx.codes.NOT_FOUND:
                    return wire.SessionResult()
                if is_final(fault):
                    raise
                logger.debug("{}: the result cannot be fetched yet: {}", self._run.run_id, fault)
            await asyncio.sleep(waits.next_s())

    async def _follow_events(self) -> None:
        async with self._stream_slot:
            await self._events.follow()

    async def _look_up(self) -> wire.RunState | None:
        """Return the run's state; None while the coordinator is unreachable."""
        self._looked_up_at = time.monotonic()
        try:
            state = await self._api.run_state(self._run.run_id)
        except CoordinatorError as fault:
            if is_final(fault):
                raise
            logger.debug("{}: the run cannot be looked up yet: {}", self._run.run_id, fault)
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
        await asyncio.sleep(self._looked_up_at + self._policy.look_up_spacing_s - time.monotonic())


def is_final(fault: CoordinatorError) -> bool:
    """Return whether a retry is useless. Refused credentials are renewed, so they are not final."""
    return isinstance(fault, Refused) and not isinstance(fault, NotAuthenticated)
