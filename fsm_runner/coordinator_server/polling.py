"""The long poll: held until there is something for its runner (protocol.md, section 1.1)."""

import asyncio

from fsm_runner.coordinator_server.errors import runner_not_registered
from fsm_runner.coordinator_server.http.disconnect_watcher import DisconnectWatcher
from fsm_runner.coordinator_server.registry import Presence, Registry, Runner
from fsm_runner.coordinator_server.store.store import Store
from fsm_runner.coordinator_server.store.worker import StoreWorker
from fsm_runner.protocol.wire import JsonObject

ASKED_TO_LEAVE = "The runner was deregistered"


class Polls:
    """Answers polls. Whatever a poll carries off, a run, a stop, a sync, is taken only for a client that is there."""

    def __init__(self, registry: Registry, worker: StoreWorker, timeout_s: float) -> None:
        self._registry = registry
        self._worker = worker
        self._timeout_s = timeout_s
        self._closed = False

    def close(self) -> None:
        """Held polls end at once, with nothing; no run is claimed any more."""
        self._closed = True
        self._registry.wake_all()

    async def hold(self, runner: Runner, wake: asyncio.Event, hangup: DisconnectWatcher) -> JsonObject | None:
        """The answer, or None when the time is over. Raises a 401 Refusal when the runner is removed meanwhile."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            wake.clear()
            if await hangup.happened() or self._closed:
                return None
            if answer := await self._look(runner, hangup):
                return answer
            try:
                async with asyncio.timeout_at(deadline):
                    await wake.wait()
            except TimeoutError:
                return None

    async def _look(self, runner: Runner, hangup: DisconnectWatcher) -> JsonObject | None:
        return self._at_hand(runner) or await self._leave(runner, hangup) or await self._claim(runner, hangup)

    def _at_hand(self, runner: Runner) -> JsonObject | None:
        if runner.presence is Presence.DEREGISTERED:
            return {"deregistered": True}
        if runner.presence is Presence.EXPIRED:
            raise runner_not_registered()
        if stops := self._registry.take_stops(runner.runner_id):
            return {"stop_sessions": stops}
        if runner.scripts_to_sync:
            scripts, runner.scripts_to_sync = runner.scripts_to_sync, []
            return {"sync_scripts": scripts, "remove_scripts": []}
        return None

    async def _leave(self, runner: Runner, hangup: DisconnectWatcher) -> JsonObject | None:
        """Tell a runner that somebody else has deregistered it; it is removed when it is told."""
        if runner.presence is not Presence.LEAVING:
            return None
        async with runner.claiming:
            await self._worker.do(Store.close_runner, runner.runner_id, ASKED_TO_LEAVE)
        if await hangup.happened() or runner.presence is not Presence.LEAVING:
            return None
        self._registry.remove(runner, Presence.DEREGISTERED)
        return {"deregistered": True}

    async def _claim(self, runner: Runner, hangup: DisconnectWatcher) -> JsonObject | None:
        async with runner.claiming:
            if not runner.takes_runs:
                return None
            run = await self._worker.do(Store.claim, runner.capabilities)
            if run is None:
                return None
            if await hangup.happened() or not runner.takes_runs or self._closed:
                await self._worker.do(_release, run["run_id"])
                self._registry.wake_all()
                return None
            return {"run": run}


def _release(store: Store, run_id: str) -> None:
    store.runs.release(run_id)
