"""A model of the coordinator without a network. It accepts every message, as the deployed one does, and counts them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from fsm_runner.coordinator_client.api import ClientRequests, Polled, UnreadableRun
from fsm_runner.coordinator_client.errors import NoConnection, NotRegistered, Refused, RunReassigned, Unreachable
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import RunStatus
from tests.support.crash_model.journal import KillSwitch

Value = TypeVar("Value")
RUNNER_ID = "runner_1"
TERMINAL = ("completed", "failed", "stopped")
POLL_HOLD_S = 5.0
OTHER_RUNNER_S = 5.0
"""How long another runner needs for a run."""
REGISTERED = wire.Registered(runner_id=RUNNER_ID, poll_timeout_seconds=POLL_HOLD_S, heartbeat_interval_seconds=10)
OK = ApiResponse("POST /", 200, b"{}")


class Fault(msgspec.Struct, frozen=True):
    """How one call fails, and how long it takes."""

    kind: Literal["none", "refused connection", "error", "lost answer"] = "none"
    before_s: float = 0.0
    """Until the coordinator receives the call."""
    after_s: float = 0.0
    """Until the runner receives the answer or the error."""


class ModelRun:
    """A run at the coordinator."""

    def __init__(self, run: wire.Run) -> None:
        self.run = run
        self.status = "pending"
        self.attempt = 1
        self.runner_id = RUNNER_ID
        """The runner that has it, or had it last."""
        self.offered_at_s = 0.0
        """No poll returns it before."""
        self.error: str | None = None
        self.reports: list[tuple[str, bytes]] = []
        """The terminal reports that the coordinator accepted."""
        self.settled_by_coordinator = False
        self.reopened: list[str] = []
        """Messages accepted after a terminal report, which set the run or its session back to running."""
        self.started_reports = 0
        self.results: set[bytes] = set()
        """The result events. One that arrives twice counts once."""
        self.stop_requested_at_s: float | None = None
        """When it was asked for at first."""
        self.stop_was_overwritten = False
        """Whether `started` arrived after the request, which sets the run back to running (section 1.1)."""
        self.settled_at_s: float | None = None

    @property
    def is_settled(self) -> bool:
        return self.status in TERMINAL

    def take(self, message: str, body: bytes) -> None:
        if message in TERMINAL:
            self.reports.append((message, body))
            self.settled_at_s = _now_s()
            self.status, self.error = message, msgspec.json.decode(body).get("error")
            return
        if self.reports:
            self.reopened.append(message)
        if message == "started":
            self.started_reports += 1
            self.stop_was_overwritten |= self.status == "stopping"
            self.status = "running"

    def complete_elsewhere(self) -> None:
        if not self.is_settled:
            self.status, self.settled_by_coordinator = "completed", True

    def listed(self) -> wire.Run:
        return msgspec.structs.replace(self.run, status=self.status, runner_id=self.runner_id, attempt=self.attempt)

    def is_reassigned(self, attempt: object) -> bool:
        """Whether it waits for a runner again, another one has it, or the runner has a later attempt than this one."""
        is_away = self.runner_id != RUNNER_ID or (self.status == "pending" and self.attempt > 1)
        return is_away or attempt not in (None, self.attempt)


class ModelCoordinator:
    """Serves one runner. `aclose` ends the polls that it still holds."""

    def __init__(self) -> None:
        self.runs: dict[str, ModelRun] = {}
        self.knows_runner = False
        self._stops: list[str] = []
        self._polls: set[asyncio.Task[Polled]] = set()
        self._changed = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        return all(run.is_settled for run in self.runs.values())

    def submit(self, run: wire.Run) -> None:
        self.runs[run.run_id] = ModelRun(run)
        self._changed.set()

    def stop(self, run_id: str) -> None:
        run = self.runs[run_id]
        if not run.is_settled and run.runner_id == RUNNER_ID:
            run.status = "stopped" if run.status == "pending" else "stopping"
            run.settled_by_coordinator = run.is_settled
            run.stop_requested_at_s = run.stop_requested_at_s or _now_s()
            self._stops.append(run.run.session_id)
            self._changed.set()

    def settle(self, run_id: str) -> None:
        """Declare a run failed, as the coordinator does if it does not hear of the runner for long."""
        run = self.runs[run_id]
        if not run.is_settled:
            run.status, run.settled_by_coordinator = "failed", True

    def requeue(self, run_id: str, offered_after_s: float) -> None:
        """Remove the runner, as if it had been silent for long, and queue the run again if it holds that."""
        run = self.runs[run_id]
        self.knows_runner = False
        if run.status in ("claimed", "running") and run.runner_id == RUNNER_ID:
            run.status, run.attempt, run.offered_at_s = "pending", run.attempt + 1, _now_s() + offered_after_s
        asyncio.get_running_loop().call_at(run.offered_at_s, self._changed.set)

    def give_away(self, run_id: str) -> None:
        """Remove the runner, and let another one complete the run if this one holds it."""
        run = self.runs[run_id]
        self.knows_runner = False
        if run.status in ("claimed", "running"):
            run.runner_id, run.status, run.attempt = "another", "running", run.attempt + 1
            asyncio.get_running_loop().call_later(OTHER_RUNNER_S, run.complete_elsewhere)
        self._changed.set()

    def restart(self) -> None:
        """Forget the runner, and offer claimed runs again."""
        self.knows_runner = False
        for run in self.runs.values():
            if run.status == "claimed" and run.runner_id == RUNNER_ID:
                run.status = "pending"
        self._changed.set()

    async def poll(self) -> Polled:
        """Hold the poll, even if its caller is gone."""
        self._check_registered()
        poll = asyncio.create_task(self._hold(), name="a held poll")
        self._polls.add(poll)
        poll.add_done_callback(self._polls.discard)
        return await asyncio.shield(poll)

    async def _hold(self) -> Polled:
        until_s = asyncio.get_running_loop().time() + POLL_HOLD_S
        while (polled := self._next()) is None:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._changed.wait()
            except TimeoutError:
                return Polled()
        return polled

    def _next(self) -> Polled | None:
        if self._stops:
            stops, self._stops = tuple(self._stops), []
            return Polled(stop_sessions=stops)
        for run in self.runs.values():
            if run.status == "pending" and run.offered_at_s <= _now_s():
                run.status = "claimed"
                return Polled(run=run.listed())
        return None

    def deliver(self, path: str, body: bytes, run_id: object, attempt: object) -> ApiResponse:
        *_, kind, subject, message = path.split("/")
        run = self.runs.get(subject if kind == "runs" else str(run_id))
        if run is not None and run.is_reassigned(attempt) and self.knows_runner:
            raise RunReassigned("409", run.attempt)
        if kind == "runs":
            self._check_registered()
            if subject not in self.runs:
                raise Refused("404", 404)
            self.runs[subject].take(message, body)
        of_session = [run for run in self.runs.values() if run.run.session_id == subject]
        if message == "events" and msgspec.json.decode(body)["event_type"] == "result":
            of_session[-1].results.add(body)
        elif message == "bind" and all(run.is_settled for run in of_session):
            of_session[-1].take(message, body)
        return OK

    def state(self, run_id: str) -> wire.RunState:
        if run_id not in self.runs:
            raise Refused("404", 404)
        run = self.runs[run_id]
        runner_id = None if run.status == "pending" else run.runner_id
        return wire.RunState(status=run.status, error=run.error, runner_id=runner_id, attempt=run.attempt)

    def of_status(self, status: str) -> list[wire.Run]:
        return [run.listed() for run in self.runs.values() if run.status == status and run.runner_id == RUNNER_ID]

    def heartbeat(self) -> None:
        self._check_registered()

    def _check_registered(self) -> None:
        if not self.knows_runner:
            raise NotRegistered("401")

    async def aclose(self) -> None:
        for poll in self._polls:
            poll.cancel()
        if self._polls:
            await asyncio.wait(self._polls)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class ModelApi:
    """The `CoordinatorApi` of one process. Its calls meet the faults in turn."""

    url = "http://coordinator"

    def __init__(
        self, coordinator: ModelCoordinator, kill_switch: KillSwitch, faults: deque[Fault], control_faults: deque[Fault]
    ) -> None:
        self._coordinator = coordinator
        self._kill_switch = kill_switch
        self._faults = faults
        """Faults of messages and of look-ups of single runs."""
        self._control_faults = control_faults
        """Faults of all other calls."""

    async def register(self, registration: wire.Registration) -> wire.Registered:
        def accept() -> wire.Registered:
            self._coordinator.knows_runner = True
            return REGISTERED

        return await self._exchange(self._control_faults, accept)

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        fault = self._next(self._control_faults)
        await self._arrive(fault)
        return await self._answer(fault, await self._coordinator.poll())

    async def heartbeat(self, runner_id: str) -> None:
        await self._exchange(self._control_faults, self._coordinator.heartbeat)

    async def held(self, runner_id: str, status: RunStatus) -> list[wire.Run | UnreadableRun]:
        return list(await self._exchange(self._control_faults, lambda: self._coordinator.of_status(status)))

    async def client_requests(self) -> ClientRequests:
        stopping = await self._exchange(self._control_faults, lambda: self._coordinator.of_status("stopping"))
        stops = [
            wire.StopRequest(run_id=run.run_id, session_id=run.session_id, runner_id=RUNNER_ID) for run in stopping
        ]
        return ClientRequests(stops=stops)

    async def deliver(self, path: str, body: bytes, method: str = "POST", **headers: object) -> ApiResponse:
        run_id, attempt = headers.get("run_id"), headers.get("attempt")
        return await self._exchange(self._faults, lambda: self._coordinator.deliver(path, body, run_id, attempt))

    async def run_state(self, run_id: str) -> wire.RunState:
        return await self._exchange(self._faults, lambda: self._coordinator.state(run_id))

    async def deregister(self, runner_id: str) -> None:
        await self._exchange(deque(), lambda: None)

    async def _exchange(self, faults: deque[Fault], act: Callable[[], Value]) -> Value:
        fault = self._next(faults)
        await self._arrive(fault)
        return await self._answer(fault, act())

    def _next(self, faults: deque[Fault]) -> Fault:
        return faults.popleft() if faults else Fault()

    async def _arrive(self, fault: Fault) -> None:
        await self._kill_switch.block_if_killed()
        await asyncio.sleep(fault.before_s)
        self._kill_switch.kill_point()
        await self._kill_switch.block_if_killed()
        if fault.kind == "refused connection":
            raise NoConnection("refused")
        if fault.kind == "error":
            raise Unreachable("500")

    async def _answer(self, fault: Fault, answer: Value) -> Value:
        self._kill_switch.kill_point()
        await self._kill_switch.block_if_killed()
        await asyncio.sleep(fault.after_s)
        await self._kill_switch.block_if_killed()
        if fault.kind == "lost answer":
            raise Unreachable("reset")
        return answer
