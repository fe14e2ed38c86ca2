"""A run's end is told until the coordinator has it, and not again when it has."""

from collections import deque

import msgspec
import pytest

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import (
    CoordinatorError,
    NoConnection,
    NotAuthenticated,
    NotRegistered,
    Refused,
    Unreachable,
)
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage, RunEnding
from fsm_runner.reporting.sender import MessageSender
from tests.support.virtual_time import in_virtual_time

LOST = Unreachable("reset")
NOT_SENT = NoConnection("refused")
UNKNOWN = Refused("404", 404)
COMPLETED = messages.completed("run_1", "me")
FAILED = messages.failed("run_1", "me", "exit code 1")
STOPPED = messages.stopped("run_1", "me", "SIGTERM")
ENDS = [COMPLETED, FAILED, STOPPED]
STARTED = messages.started("run_1", "me")
OTHERS = [
    messages.event("ses_1", b"{}"),
    messages.metadata("ses_1", b"{}"),
    messages.bind("ses_1", wire.Bind(executor_session_id="e", hostname="h", executor_profile="p")),
    messages.session_ended("ses_1", "me", "failed"),
]


class Coordinator:
    """Answers calls with these in turn, then as one that has it. `calls`: what was asked of it."""

    def __init__(self, *answers: CoordinatorError | wire.RunState | None) -> None:
        self.calls: list[str] = []
        self._answers = deque(answers)

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> ApiResponse:
        self._next("tell")
        return ApiResponse(path, 200, b"{}")

    async def run_state(self, run_id: str) -> wire.RunState:
        assert run_id == "run_1"
        state = self._next("ask")
        assert state is not None
        return state

    def _next(self, call: str) -> wire.RunState | None:
        self.calls.append(call)
        answer = self._answers.popleft() if self._answers else None
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def take(self, message: OutboundMessage, *, maybe_delivered: bool = False) -> list[str]:
        """What it took to deliver this."""
        # The client needs two methods of the API.
        sender = MessageSender(CoordinatorClient(self))  # type: ignore[arg-type]
        answer = await sender.deliver(message, maybe_delivered=maybe_delivered)
        assert answer.status == 200
        assert isinstance(msgspec.json.decode(answer.body), dict)
        assert not self._answers
        return self.calls


def has(message: OutboundMessage) -> wire.RunState:
    """What a coordinator says that has taken this end."""
    assert isinstance(message.ending, RunEnding)
    return wire.RunState(status=message.ending.status, error=message.ending.error)


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_an_end_whose_answer_was_lost_is_not_told_twice_where_the_coordinator_has_it(
    end: OutboundMessage,
) -> None:
    assert await Coordinator(LOST, has(end)).take(end) == ["tell", "ask"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("status", ["pending", "claimed", "running", "stopping"])
@in_virtual_time
async def test_an_end_whose_answer_was_lost_is_told_again_where_the_run_is_open(
    end: OutboundMessage, status: str
) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(end) == ["tell", "ask", "tell"]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_an_end_is_told_where_the_coordinator_has_another_one(end: OutboundMessage) -> None:
    for other in ENDS:
        if other is not end:
            assert await Coordinator(LOST, has(other)).take(end) == ["tell", "ask", "tell"]


@in_virtual_time
async def test_a_failure_is_told_again_where_the_coordinator_has_it_for_another_reason() -> None:
    for error in ("runner removed", None):
        found = wire.RunState(status="failed", error=error)
        assert await Coordinator(LOST, found).take(FAILED) == ["tell", "ask", "tell"]


@pytest.mark.parametrize("fault", [NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403)])
@in_virtual_time
async def test_nothing_is_asked_where_the_coordinator_has_not_acted(fault: CoordinatorError) -> None:
    assert await Coordinator(fault, fault).take(COMPLETED) == ["tell", "tell", "tell"]


@in_virtual_time
async def test_a_doubt_lasts_until_it_is_settled() -> None:
    faults = (LOST, NOT_SENT, LOST, NotRegistered("401"), NotAuthenticated("401", 401))
    assert await Coordinator(*faults, has(STOPPED)).take(STOPPED) == ["tell", *["ask"] * 5]


@in_virtual_time
async def test_a_second_lost_answer_is_asked_about_as_well() -> None:
    running = wire.RunState(status="running")
    assert await Coordinator(LOST, running, LOST, has(COMPLETED)).take(COMPLETED) == ["tell", "ask", "tell", "ask"]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_in_doubt_the_coordinator_is_asked_first(end: OutboundMessage) -> None:
    assert await Coordinator(has(end)).take(end, maybe_delivered=True) == ["ask"]
    assert await Coordinator(wire.RunState(status="running")).take(end, maybe_delivered=True) == ["ask", "tell"]


@in_virtual_time
async def test_an_end_that_an_earlier_process_told_is_known_by_its_status_alone() -> None:
    remembered = OutboundMessage(FAILED.path, FAILED.body, ending=RunEnding("run_1", "failed"))
    assert await Coordinator(has(FAILED)).take(remembered, maybe_delivered=True) == ["ask"]


@in_virtual_time
async def test_an_end_of_a_run_that_the_coordinator_does_not_know_is_told_all_the_same() -> None:
    assert await Coordinator(LOST, UNKNOWN).take(COMPLETED) == ["tell", "ask", "tell"]
    refusing = Coordinator(UNKNOWN, UNKNOWN)
    with pytest.raises(Refused):
        await refusing.take(COMPLETED, maybe_delivered=True)
    assert refusing.calls == ["ask", "tell"]


@pytest.mark.parametrize("status", ["pending", "claimed"])
@in_virtual_time
async def test_a_beginning_that_the_coordinator_does_not_know_is_told_again(status: str) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(STARTED) == ["tell", "ask", "tell"]
    assert await Coordinator(NOT_SENT).take(STARTED) == ["tell", "tell"]


@pytest.mark.parametrize("status", ["running", "stopping", "completed", "failed", "stopped"])
@in_virtual_time
async def test_a_beginning_that_the_coordinator_knows_is_not_told_again(status: str) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(STARTED) == ["tell", "ask"]


@pytest.mark.parametrize("message", OTHERS, ids=lambda message: message.path)
@in_virtual_time
async def test_other_messages_are_repeated_without_a_question(message: OutboundMessage) -> None:
    assert await Coordinator(LOST, LOST).take(message) == ["tell", "tell", "tell"]
    assert await Coordinator().take(message, maybe_delivered=True) == ["tell"]


@in_virtual_time
async def test_what_the_coordinator_holds_of_a_run_is_waited_for() -> None:
    running = wire.RunState(status="running")
    coordinator = Coordinator(LOST, NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403), running)
    assert await CoordinatorClient(coordinator).look_up_run("run_1") is running  # type: ignore[arg-type] # as above
    assert await CoordinatorClient(Coordinator(UNKNOWN)).look_up_run("run_1") is None  # type: ignore[arg-type] # as above
