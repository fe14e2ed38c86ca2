"""A fake of the coordinator's API for unit tests."""

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec

from fsm_runner.coordinator_client.api import ClientRequests, Polled, UnreadableRun
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused, Unreachable
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol import wire

ME = "runner_me"
REGISTERED = wire.Registered(runner_id=ME, poll_timeout_seconds=30, heartbeat_interval_seconds=10)
TERMINAL_REPORTS = ("completed", "failed", "stopped")
HOT_LOOP_POLLS = 1000

PollAnswer = Polled | CoordinatorError | asyncio.Future[Polled]
"""The response to a poll; a future if the poll is held."""


class FakeApi:
    """The `CoordinatorApi` of unit tests: it answers as its attributes say.

    It answers the given polls in turn, and holds later ones. Other calls succeed by default.
    """

    url = "http://coordinator"

    def __init__(self, polls: Iterable[PollAnswer] = ()) -> None:
        self._polls = iter(polls)
        self.calls: list[str] = []
        """The names of polls and look-ups, in order."""
        self.polled_at_s: list[float] = []
        self.hold_s: list[float] = []
        self.beaten: list[float] = []
        """The times of answered heartbeats."""
        self.silent_until_s = 0.0
        """Heartbeats before this time are not answered."""
        self.stop_answers: list[CoordinatorError | list[wire.StopRequest]] = []
        self.running: list[wire.Run | UnreadableRun] = []
        """The runs that the coordinator counts as started by this runner."""
        self.claim_answers: list[CoordinatorError | list[wire.Run | UnreadableRun]] = []
        self.asked_for_claims_at_s: list[float] = []
        self.states: dict[str, wire.RunState | CoordinatorError] = {}
        """The states of runs by id; other runs are running."""
        self.answers_in_turn: deque[CoordinatorError | wire.RunState | None] = deque()
        """The answers to the next deliveries and look-ups of runs, whichever comes; None: the default."""
        self.look_up_faults: deque[CoordinatorError] = deque()
        """How the next look-ups of runs fail."""
        self.looked_up: list[str] = []
        """The ids of the runs in look-ups."""
        self.exchanges: list[str] = []
        """`deliver` and `look up` for each delivery and each look-up of a run, in order."""
        self.agents: dict[str, wire.JsonObject | CoordinatorError] = {}
        """The definitions of agents by name; other agents do not exist."""
        self.delivered: list[str] = []
        """The paths of accepted messages."""
        self.bodies: list[bytes] = []
        self.answers: list[asyncio.Future[None]] = []
        """Futures that the next heartbeats and deliveries wait for."""

    async def register(self, registration: wire.Registration) -> wire.Registered:
        return REGISTERED

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        assert len(self.polled_at_s) < HOT_LOOP_POLLS, "a hot loop of polls"
        self.calls.append("poll")
        self.polled_at_s.append(now_s())
        self.hold_s.append(hold_s)
        await asyncio.sleep(0)
        answer = next(self._polls, None) or asyncio.get_running_loop().create_future()
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer if isinstance(answer, Polled) else await answer

    async def client_requests(self) -> ClientRequests:
        self.calls.append("look up")
        answer = self.stop_answers.pop(0) if self.stop_answers else []
        if isinstance(answer, CoordinatorError):
            raise answer
        return ClientRequests(stops=answer)

    async def held(self, runner_id: str, status: str) -> list[wire.Run | UnreadableRun]:
        assert runner_id == ME
        if status == "running":
            return self.running
        self.calls.append("claims")
        self.asked_for_claims_at_s.append(now_s())
        answer = self.claim_answers.pop(0) if self.claim_answers else []
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def agent_definition(self, name: str) -> wire.JsonObject:
        self.calls.append(f"agent {name}")
        answer = self.agents.get(name, Refused("Agent not found", 404))
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def run_state(self, run_id: str) -> wire.RunState:
        self.exchanges.append("look up")
        self.looked_up.append(run_id)
        if self.look_up_faults:
            raise self.look_up_faults.popleft()
        state = self._next_answer() or self.states.get(run_id, wire.RunState(status="running"))
        if isinstance(state, CoordinatorError):
            raise state
        return state

    async def heartbeat(self, runner_id: str) -> None:
        if self.answers:
            await self.answers.pop(0)
        if now_s() < self.silent_until_s:
            raise Unreachable("502")
        self.beaten.append(now_s())

    async def deliver(self, path: str, body: bytes, method: str = "POST", **headers: object) -> ApiResponse:
        if self.answers:
            await self.answers.pop(0)
        self.exchanges.append("deliver")
        self._next_answer()
        self.delivered.append(path)
        self.bodies.append(body)
        *_, subject, message = path.split("/")
        if message in TERMINAL_REPORTS:
            self.states[subject] = wire.RunState(status=message, error=msgspec.json.decode(body).get("error"))
        return ApiResponse(path, 200, b"{}")

    @property
    def reported(self) -> list[str]:
        """The kinds of accepted messages."""
        return [path.rpartition("/")[2] for path in self.delivered]

    def _next_answer(self) -> wire.RunState | None:
        answer = self.answers_in_turn.popleft() if self.answers_in_turn else None
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer


def now_s() -> float:
    return asyncio.get_running_loop().time()
