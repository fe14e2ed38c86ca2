"""The long poll: held until there is something to report to its runner (protocol.md, section 1.1)."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from fsm_runner.coordinator_server.approvals import ApprovalDesk
from fsm_runner.coordinator_server.errors import RunnerNotRegistered
from fsm_runner.coordinator_server.registry import Presence, Registry, Runner
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.coordinator_server.store.worker import StoreWorker
from fsm_runner.protocol.wire import JsonObject

IsDisconnected = Callable[[], Awaitable[bool]]
"""Returns whether the event loop has read the end of the client's connection."""


class Polls:
    """Answers polls. It delivers a run, stop or sync only to a client that is still connected."""

    def __init__(self, registry: Registry, worker: StoreWorker, approvals: ApprovalDesk, timeout_s: float) -> None:
        self._registry = registry
        self._worker = worker
        self._approvals = approvals
        self._timeout_s = timeout_s
        self._is_closed = False
        """Whether the coordinator is stopping: its runners would not receive a run that is claimed now."""

    def close(self) -> None:
        """End the held polls at once, without content, and claim no further runs."""
        self._is_closed = True
        self._registry.wake_all()

    async def hold(self, runner: Runner, wake: asyncio.Event, is_disconnected: IsDisconnected) -> JsonObject | None:
        """Return the response; None: the time is over. Raises `RunnerNotRegistered` if the runner is removed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while True:
            wake.clear()
            if await is_disconnected() or self._is_closed:
                return None
            if (
                response := self._queued(runner)
                or await self._deregister(runner, is_disconnected)
                or await self._decisions(runner)
                or await self._claim(runner, is_disconnected)
            ):
                return response
            due_s = self._approvals.due_s(runner.runner_id)
            # The clock of the approvals may be that of a test.
            left_s = math.inf if due_s is None else due_s - self._approvals.now_s()
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + left_s)):
                    await wake.wait()
            except TimeoutError:
                if loop.time() >= deadline:
                    return None

    def _queued(self, runner: Runner) -> JsonObject | None:
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

    async def _decisions(self, runner: Runner) -> JsonObject | None:
        """A response that is lost is repeated, so this does not check the connection again."""
        requests = await self._approvals.for_poll(runner.runner_id)
        return {"approvals": requests} if requests else None

    async def _deregister(self, runner: Runner, is_disconnected: IsDisconnected) -> JsonObject | None:
        """Remove a runner that a client has deregistered, together with the response that reports this."""
        if runner.presence is not Presence.LEAVING:
            return None
        async with runner.claim_lock:
            await self._worker.do(Store.close_runner, runner.runner_id, "The runner was deregistered")
        if await is_disconnected() or runner.presence is not Presence.LEAVING:
            return None
        self._registry.remove(runner, Presence.DEREGISTERED)
        return {"deregistered": True}

    async def _claim(self, runner: Runner, is_disconnected: IsDisconnected) -> JsonObject | None:
        async with runner.claim_lock:
            if not runner.accepts_runs:
                return None
            run = await self._worker.do(lambda store: store.runs.claim(runner.capabilities))
            if run is None:
                return None
            if await is_disconnected() or not runner.accepts_runs or self._is_closed:
                await self._worker.do(lambda store: store.runs.release(run["run_id"]))
                self._registry.wake_all()
                return None
            return {"run": run}
