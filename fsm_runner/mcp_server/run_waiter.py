"""Waiting for a run's end: mode `sync` (protocol.md, section 4)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, NotAuthenticated, Refused
from fsm_runner.mcp_server.event_stream import Listener
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.util.retry import Waits

NO_RESULT = 404
"""The executor has sent none, which is no failure of its run."""

Report = Callable[[float, str], Awaitable[None]]
"""Tells the client of a call how it is getting on: seconds so far, and a text."""


class RunWait:
    """One run that a call waits for.

    Its own status decides, not its session's. It is looked up when its session's events say that something has
    happened, every `recheck_s` in any case, and by `look_up` where there is no stream of events.
    """

    def __init__(self, api: CoordinatorApi, run: wire.RunCreated, limits: Limits, report: Report) -> None:
        self._api = api
        self._run = run
        self._limits = limits
        self._report = report
        self._changed = asyncio.Event()
        self._listener = Listener(api, run.session_id, self._changed.set, limits.stream)
        self._status = run.status
        self._away = False
        self._looked_up_at = 0.0

    async def end(self) -> wire.RunState:
        """The run as it ended; the caller sets the limit. Raises `Refused` where the coordinator knows no such run.

        A coordinator that is away is waited for.
        """
        async with (
            alongside(self._listener.run(), f"mcp-events-{self._run.run_id}"),
            alongside(self._tell(), f"mcp-progress-{self._run.run_id}"),
        ):
            return await self._ended()

    async def result(self) -> wire.SessionResult:
        """What the session has as its result, once the run has completed. Raises `Refused`."""
        waits = Waits(self._limits.look_up)
        while True:
            try:
                return await self._api.session_result(self._run.session_id)
            except CoordinatorError as fault:
                if isinstance(fault, Refused) and fault.status == NO_RESULT:
                    return wire.SessionResult()
                if is_final(fault):
                    raise
                logger.debug("mcp: the result of {} is not to be had yet: {}", self._run.session_id, fault)
            await asyncio.sleep(waits.next_s())

    async def _ended(self) -> wire.RunState:
        waits = Waits(self._limits.look_up)
        while True:
            self._changed.clear()
            state = await self._look_up()
            if state is not None and state.status in TERMINAL_RUN_STATUSES:
                return state
            if self._listener.hears and not self._away:
                waits.reset()
                await self._pause(self._limits.recheck_s)
            else:
                await self._pause(waits.next_s())

    async def _look_up(self) -> wire.RunState | None:
        """None while the coordinator is away."""
        self._looked_up_at = time.monotonic()
        try:
            state = await self._api.run_state(self._run.run_id)
        except CoordinatorError as fault:
            if is_final(fault):
                raise
            logger.debug("mcp: {} cannot be looked up yet: {}", self._run.run_id, fault)
            self._away = True
            return None
        self._status, self._away = state.status, False
        return state

    async def _pause(self, longest_s: float) -> None:
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._looked_up_at + self._limits.look_up_spacing_s - time.monotonic())

    async def _tell(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._limits.progress_interval_s)
            so_far_s = time.monotonic() - began
            status = f"{self._status}; the coordinator is away" if self._away else self._status
            await self._report(so_far_s, f"running for {so_far_s:.0f} s (status {status})")


def is_final(fault: CoordinatorError) -> bool:
    """Whether asking again is of no use. Credentials are renewed, so their refusal passes like an outage."""
    return isinstance(fault, Refused) and not isinstance(fault, NotAuthenticated)


@asynccontextmanager
async def alongside(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """A task that lasts as long as the body. Should it fail, that is logged, and the body goes on without it."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (defect := task.exception()) is not None:
            logger.opt(exception=defect).error("{} failed", name)
