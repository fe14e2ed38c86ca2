"""A report is sent until the coordinator has it, and not repeated after that."""

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
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage, RunEnding
from fsm_runner.reporting.sender import MessageSender
from tests.support.fake_api import FakeApi
from tests.support.logs import log_lines
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


def api_with(*answers: CoordinatorError | wire.RunState | None) -> FakeApi:
    api = FakeApi()
    api.answers_in_turn.extend(answers)
    return api


async def exchanges(
    message: OutboundMessage, *answers: CoordinatorError | wire.RunState | None, maybe_delivered: bool = False
) -> list[str]:
    """Deliver the message to an API with these answers in turn. Return the calls."""
    api = api_with(*answers)
    sender = MessageSender(CoordinatorClient(api))  # type: ignore[arg-type]  # it has the methods that are called
    answer = await sender.deliver(message, maybe_delivered=maybe_delivered)
    assert answer.status == 200
    assert isinstance(msgspec.json.decode(answer.body), dict)
    assert not api.answers_in_turn
    assert set(api.looked_up) <= {"run_1"}
    return api.exchanges


def has(message: OutboundMessage) -> wire.RunState:
    """Return the state of a run whose report has arrived."""
    assert isinstance(message.ending, RunEnding)
    return wire.RunState(status=message.ending.status, error=message.ending.error)


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_report_whose_response_was_lost_is_not_repeated_if_it_arrived(
    end: OutboundMessage,
) -> None:
    assert await exchanges(end, LOST, has(end)) == ["deliver", "look up"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("status", ["pending", "claimed", "running", "stopping"])
@in_virtual_time
async def test_a_report_whose_response_was_lost_is_repeated_if_the_run_is_open(
    end: OutboundMessage, status: str
) -> None:
    assert await exchanges(end, LOST, wire.RunState(status=status)) == ["deliver", "look up", "deliver"]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_report_is_sent_if_the_coordinator_has_another_outcome(end: OutboundMessage) -> None:
    for other in ENDS:
        if other is not end:
            assert await exchanges(end, LOST, has(other)) == ["deliver", "look up", "deliver"]


@in_virtual_time
async def test_a_failure_is_repeated_if_the_coordinator_has_another_error() -> None:
    for error in ("runner removed", None):
        found = wire.RunState(status="failed", error=error)
        assert await exchanges(FAILED, LOST, found) == ["deliver", "look up", "deliver"]


@pytest.mark.parametrize("fault", [NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403)])
@in_virtual_time
async def test_the_status_is_not_looked_up_if_the_call_was_never_sent(fault: CoordinatorError) -> None:
    assert await exchanges(COMPLETED, fault, fault) == ["deliver", "deliver", "deliver"]


@in_virtual_time
async def test_the_look_up_is_retried_until_it_succeeds() -> None:
    faults = (LOST, NOT_SENT, LOST, NotRegistered("401"), NotAuthenticated("401", 401))
    assert await exchanges(STOPPED, *faults, has(STOPPED)) == ["deliver", *["look up"] * 5]


@in_virtual_time
async def test_a_second_lost_response_is_looked_up_as_well() -> None:
    running = wire.RunState(status="running")
    assert await exchanges(COMPLETED, LOST, running, LOST, has(COMPLETED)) == [
        "deliver",
        "look up",
        "deliver",
        "look up",
    ]


@pytest.mark.parametrize("end", ENDS)
@in_virtual_time
async def test_a_message_that_may_have_arrived_is_looked_up_first(end: OutboundMessage) -> None:
    assert await exchanges(end, has(end), maybe_delivered=True) == ["look up"]
    assert await exchanges(end, wire.RunState(status="running"), maybe_delivered=True) == ["look up", "deliver"]


@in_virtual_time
async def test_a_report_of_an_earlier_process_is_recognized_by_its_status() -> None:
    remembered = OutboundMessage(FAILED.path, FAILED.body, ending=RunEnding("run_1", "failed"))
    assert await exchanges(remembered, has(FAILED), maybe_delivered=True) == ["look up"]


@in_virtual_time
async def test_a_report_of_an_unknown_run_is_sent() -> None:
    assert await exchanges(COMPLETED, LOST, UNKNOWN) == ["deliver", "look up", "deliver"]
    refusing = api_with(UNKNOWN, UNKNOWN)
    with pytest.raises(Refused):
        await MessageSender(CoordinatorClient(refusing)).deliver(COMPLETED, maybe_delivered=True)  # type: ignore[arg-type]
    assert refusing.exchanges == ["look up", "deliver"]


@pytest.mark.parametrize("status", ["pending", "claimed"])
@in_virtual_time
async def test_a_start_that_did_not_arrive_is_repeated(status: str) -> None:
    assert await exchanges(STARTED, LOST, wire.RunState(status=status)) == ["deliver", "look up", "deliver"]
    assert await exchanges(STARTED, NOT_SENT) == ["deliver", "deliver"]


@pytest.mark.parametrize("status", ["running", "stopping", "completed", "failed", "stopped"])
@in_virtual_time
async def test_a_start_that_arrived_is_not_repeated(status: str) -> None:
    assert await exchanges(STARTED, LOST, wire.RunState(status=status)) == ["deliver", "look up"]


@pytest.mark.parametrize("message", OTHERS, ids=lambda message: message.path)
@in_virtual_time
async def test_other_messages_are_repeated_without_a_look_up(message: OutboundMessage) -> None:
    assert await exchanges(message, LOST, LOST) == ["deliver", "deliver", "deliver"]
    assert await exchanges(message, maybe_delivered=True) == ["deliver"]


@in_virtual_time
async def test_the_look_up_of_a_run_is_retried_during_an_outage() -> None:
    running = wire.RunState(status="running")
    coordinator = api_with(LOST, NOT_SENT, NotRegistered("401"), NotAuthenticated("403", 403), running)
    assert await CoordinatorClient(coordinator).look_up_run("run_1") is running  # type: ignore[arg-type] # as above
    assert await CoordinatorClient(api_with(UNKNOWN)).look_up_run("run_1") is None  # type: ignore[arg-type] # as above


@pytest.mark.parametrize(
    ("message", "subject"), [(STARTED, "run_1"), (FAILED, "run_1"), *((message, "ses_1") for message in OTHERS)]
)
@in_virtual_time
async def test_a_delay_is_logged_with_the_run_or_session_and_the_call(message: OutboundMessage, subject: str) -> None:
    with log_lines() as lines:
        await exchanges(message, *[NoConnection("POST http://coordinator/path: refused")] * 4)
    assert set(lines) == {
        f"{subject}: a message is not delivered yet, retrying (POST http://coordinator/path: refused)"
    }
