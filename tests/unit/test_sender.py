"""A report is sent until the coordinator has it, and not repeated after that."""

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
    """Answers calls with `answers` in turn, then with success. `calls` records them."""

    def __init__(self, *answers: CoordinatorError | wire.RunState | None) -> None:
        self.calls: list[str] = []
        self._answers = deque(answers)

    async def deliver(self, path: str, body: bytes, method: str = "POST") -> ApiResponse:
        self._next("deliver")
        return ApiResponse(path, 200, b"{}")

    async def run_state(self, run_id: str) -> wire.RunState:
        assert run_id == "run_1"
        state = self._next("look up")
        assert state is not None
        return state

    def _next(self, call: str) -> wire.RunState | None:
        self.calls.append(call)
        answer = self._answers.popleft() if self._answers else None
        if isinstance(answer, CoordinatorError):
            raise answer
        return answer

    async def take(self, message: OutboundMessage, *, maybe_delivered: bool = False) -> list[str]:
        """Deliver the message and return the calls."""
        # The client needs two methods of the API.
        sender = MessageSender(CoordinatorClient(self))  # type: ignore[arg-type]
        answer = await sender.deliver(message, maybe_delivered=maybe_delivered)
        assert answer.status == 200
        assert isinstance(msgspec.json.decode(answer.body), dict)
        assert not self._answers
        return self.calls


def has(message: OutboundMessage) -> wire.RunState:
    """Return the state of a run whose report has arrived."""
    assert isinstance(message.ending, RunEnding)
    return wire.RunState(status=message.ending.status, error=message.ending.error)


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_report_whose_response_was_lost_is_not_repeated_if_it_arrived(
    end: OutboundMessage,
) -> None:
    assert await Coordinator(LOST, has(end)).take(end) == ["deliver", "look up"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("status", ["pending", "claimed", "running", "stopping"])
@in_virtual_time
async def test_a_report_whose_response_was_lost_is_repeated_if_the_run_is_open(
    end: OutboundMessage, status: str
) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(end) == ["deliver", "look up", "deliver"]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_report_is_sent_if_the_coordinator_has_another_outcome(end: OutboundMessage) -> None:
    for other in ENDS:
        if other is not end:
            assert await Coordinator(LOST, has(other)).take(end) == ["deliver", "look up", "deliver"]


@in_virtual_time
async def test_a_failure_is_repeated_if_the_coordinator_has_another_error() -> None:
    for error in ("runner removed", None):
        found = wire.RunState(status="failed", error=error)
        assert await Coordinator(LOST, found).take(FAILED) == ["deliver", "look up", "deliver"]


@pytest.mark.parametrize("fault", [NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403)])
@in_virtual_time
async def test_the_status_is_not_looked_up_if_the_call_was_never_sent(fault: CoordinatorError) -> None:
    assert await Coordinator(fault, fault).take(COMPLETED) == ["deliver", "deliver", "deliver"]


@in_virtual_time
async def test_the_look_up_is_retried_until_it_succeeds() -> None:
    faults = (LOST, NOT_SENT, LOST, NotRegistered("401"), NotAuthenticated("401", 401))
    assert await Coordinator(*faults, has(STOPPED)).take(STOPPED) == ["deliver", *["look up"] * 5]


@in_virtual_time
async def test_a_second_lost_response_is_looked_up_as_well() -> None:
    running = wire.RunState(status="running")
    assert await Coordinator(LOST, running, LOST, has(COMPLETED)).take(COMPLETED) == [
        "deliver",
        "look up",
        "deliver",
        "look up",
    ]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_message_that_may_have_arrived_is_looked_up_first(end: OutboundMessage) -> None:
    assert await Coordinator(has(end)).take(end, maybe_delivered=True) == ["look up"]
    assert await Coordinator(wire.RunState(status="running")).take(end, maybe_delivered=True) == ["look up", "deliver"]


@in_virtual_time
async def test_a_report_of_an_earlier_process_is_recognized_by_its_status() -> None:
    remembered = OutboundMessage(FAILED.path, FAILED.body, ending=RunEnding("run_1", "failed"))
    assert await Coordinator(has(FAILED)).take(remembered, maybe_delivered=True) == ["look up"]


@in_virtual_time
async def test_a_report_of_an_unknown_run_is_sent() -> None:
    assert await Coordinator(LOST, UNKNOWN).take(COMPLETED) == ["deliver", "look up", "deliver"]
    refusing = Coordinator(UNKNOWN, UNKNOWN)
    with pytest.raises(Refused):
        await refusing.take(COMPLETED, maybe_delivered=True)
    assert refusing.calls == ["look up", "deliver"]


@pytest.mark.parametrize("status", ["pending", "claimed"])
@in_virtual_time
async def test_a_start_that_did_not_arrive_is_repeated(status: str) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(STARTED) == ["deliver", "look up", "deliver"]
    assert await Coordinator(NOT_SENT).take(STARTED) == ["deliver", "deliver"]


@pytest.mark.parametrize("status", ["running", "stopping", "completed", "failed", "stopped"])
@in_virtual_time
async def test_a_start_that_arrived_is_not_repeated(status: str) -> None:
    assert await Coordinator(LOST, wire.RunState(status=status)).take(STARTED) == ["deliver", "look up"]


@pytest.mark.parametrize("message", OTHERS, ids=lambda message: message.path)
@in_virtual_time
async def test_other_messages_are_repeated_without_a_look_up(message: OutboundMessage) -> None:
    assert await Coordinator(LOST, LOST).take(message) == ["deliver", "deliver", "deliver"]
    assert await Coordinator().take(message, maybe_delivered=True) == ["deliver"]


@in_virtual_time
async def test_the_look_up_of_a_run_is_retried_during_an_outage() -> None:
    running = wire.RunState(status="running")
    coordinator = Coordinator(LOST, NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403), running)
    assert await CoordinatorClient(coordinator).look_up_run("run_1") is running  # type: ignore[arg-type] # as above
    assert await CoordinatorClient(Coordinator(UNKNOWN)).look_up_run("run_1") is None  # type: ignore[arg-type] # as above
