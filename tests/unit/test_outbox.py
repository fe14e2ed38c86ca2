"""The outbox sends the messages of a session in order, each one once."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.policy import Policies
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.reporting.messages import OutboundMessage
from fsm_runner.reporting.outbox import NoMessageStore, Outbox
from fsm_runner.reporting.queue import DeliveryFuture
from fsm_runner.reporting.sender import MessageSender
from fsm_runner.util.retry import RetryPolicy
from tests.support.outbox import SESSION_ID, TAKEN, Gate, message, settle
from tests.support.serving import serving

QUICK = Policies(delivery=RetryPolicy(base_s=0.001, cap_s=0.002))


async def test_the_next_message_is_not_sent_before_the_one_ahead_is_acknowledged() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    first, second = box.put(SESSION_ID, message("1")), box.put(SESSION_ID, message("2"))
    await settle()
    assert gate.begun == ["1"]
    gate.acknowledge()
    assert await first is TAKEN
    await settle()
    assert gate.begun == ["1", "2"]
    assert not second.done()
    gate.acknowledge()
    assert await second is TAKEN


async def test_a_message_that_is_put_later_is_sent_too() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    for path in ("1", "2"):
        answered = box.put(SESSION_ID, message(path))
        await settle()
        gate.acknowledge()
        assert await answered is TAKEN
    assert gate.acknowledged == ["1", "2"]


async def test_a_refused_message_is_answered_with_the_refusal_and_the_next_one_is_sent() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    first, second = box.put(SESSION_ID, message("1")), box.put(SESSION_ID, message("2"))
    await settle()
    gate.refuse()
    refusal = await first
    assert isinstance(refusal, Refused)
    assert refusal.status == 404
    await settle()
    gate.acknowledge()
    assert await second is TAKEN


async def test_withdraw_removes_unsent_messages_only() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    first, second, third = (box.put(SESSION_ID, message(path)) for path in ("1", "2", "3"))
    await settle()
    box.withdraw(SESSION_ID, [first, second, third])
    last = box.put(SESSION_ID, message("4"))
    gate.acknowledge()
    assert await first is TAKEN
    await settle()
    gate.acknowledge()
    assert await last is TAKEN
    assert gate.begun == ["1", "4"]
    assert second.cancelled()
    assert third.cancelled()


async def test_an_abandoned_message_takes_those_ahead_of_it_along_and_later_ones_are_sent() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    ahead, report, behind = (box.put(SESSION_ID, message(path)) for path in ("1", "2", "3"))
    other = box.put("ses_2", message("other"))
    await settle()
    box.abandon(SESSION_ID, [report])
    await settle()
    assert ahead.cancelled()
    assert report.cancelled()
    assert gate.begun == ["1", "other", "3"]
    assert not other.done()
    assert not behind.done()
    await box.aclose()


async def test_abandon_changes_nothing_once_the_message_is_acknowledged() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    report, behind = box.put(SESSION_ID, message("1")), box.put(SESSION_ID, message("2"))
    await settle()
    gate.acknowledge()
    assert await report is TAKEN
    box.abandon(SESSION_ID, [report])
    await settle()
    gate.acknowledge()
    assert await behind is TAKEN
    box.abandon(SESSION_ID, [report])
    box.withdraw(SESSION_ID, [report])
    assert box.queued_bytes(SESSION_ID) == 0


async def test_a_cancelled_future_does_not_stop_its_message() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    box.put(SESSION_ID, message("1")).cancel()
    second = box.put(SESSION_ID, message("2"))
    await settle()
    gate.acknowledge()
    await settle()
    gate.acknowledge()
    assert await second is TAKEN
    assert gate.acknowledged == ["1", "2"]


async def test_a_closed_outbox_sends_nothing_more_and_cancels_all_futures() -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    answers = [box.put(SESSION_ID, message(path)) for path in ("1", "2")]
    await settle()
    await box.aclose()
    assert all(answer.cancelled() for answer in answers)
    assert gate.begun == ["1"]
    assert gate.acknowledged == []
    await box.aclose()


async def test_an_outbox_can_be_closed_before_use_and_after_all_is_sent() -> None:
    gate = Gate()
    await Outbox(gate, NoMessageStore()).aclose()
    box = Outbox(gate, NoMessageStore())
    answered = box.put(SESSION_ID, message("1"))
    await settle()
    gate.acknowledge()
    await answered
    await box.aclose()
    assert gate.acknowledged == ["1"]
    assert answered.result() is TAKEN


async def test_messages_reach_a_coordinator_in_order_through_all_faults() -> None:
    statuses = [500, 503, 401, 200, 502, 403, 200]
    paths = []

    async def coordinator(request: Request) -> Response:
        paths.append(request.url.path)
        return Response('{"detail": "Runner not registered"}', statuses.pop(0))

    async def run(_: Request) -> Response:
        return Response('{"status": "claimed"}')

    routes = [Route("/runs/r", run), Route("/{path:path}", coordinator, methods=["POST"])]
    app = Starlette(routes=routes)
    lost: list[bool] = []
    async with serving(app) as url, CoordinatorApi(url) as api:
        client = CoordinatorClient(api, QUICK, on_registration_lost=lambda: lost.append(True))
        box = Outbox(MessageSender(client), NoMessageStore())
        box.put(SESSION_ID, messages.started("r", "runner"))
        assert isinstance(await box.put(SESSION_ID, messages.completed("r", "runner")), ApiResponse)
    assert paths == ["/runner/runs/r/started"] * 4 + ["/runner/runs/r/completed"] * 3
    assert lost == [True]


PLACES: list[tuple[Callable[[str], OutboundMessage], str, bytes]] = [
    (lambda text: messages.started(text, "me"), "/runner/runs/{}/started", b'{"runner_id":"me"}'),
    (
        lambda text: messages.completed(text, "me"),
        "/runner/runs/{}/completed",
        b'{"runner_id":"me","status":"success","session_status":"finished"}',
    ),
    (lambda text: messages.failed(text, "me", "why"), "/runner/runs/{}/failed", b'{"runner_id":"me","error":"why"}'),
    (
        lambda text: messages.stopped(text, "me", "SIGKILL"),
        "/runner/runs/{}/stopped",
        b'{"runner_id":"me","signal":"SIGKILL"}',
    ),
    (
        lambda text: messages.bind(text, wire.Bind(executor_session_id="e", hostname="h", executor_profile="p")),
        "/sessions/{}/bind",
        b'{"executor_session_id":"e","hostname":"h","executor_profile":"p"}',
    ),
    (
        lambda text: messages.session_ended(text, "me", "stopped"),
        "/runner/sessions/{}/status",
        b'{"runner_id":"me","status":"stopped"}',
    ),
    (
        lambda text: messages.event(text, b'{"event_type": "result"}'),
        "/sessions/{}/events",
        b'{"event_type": "result"}',
    ),
]


@pytest.mark.parametrize(("make", "path", "body"), PLACES)
@pytest.mark.parametrize(("name", "quoted"), [("run_1", "run_1"), ("../a?b", "..%2Fa%3Fb"), ("..", "%2E%2E")])
def test_each_message_has_its_path_and_body(
    make: Callable[[str], OutboundMessage], path: str, body: bytes, name: str, quoted: str
) -> None:
    made = make(name)
    assert (made.method, made.path, made.body) == ("POST", path.format(quoted), body)
    assert (made.give_up_after_s is None) == path.startswith("/runner")


moves = st.sampled_from(["put", "put", "acknowledge", "refuse", "discard", "settle"])


@settings(deadline=None)
@given(st.lists(moves, max_size=40))
def test_order_is_kept_and_nothing_is_sent_twice(steps: list[str]) -> None:
    asyncio.run(_live(steps))


async def _live(steps: list[str]) -> None:
    gate = Gate()
    box = Outbox(gate, NoMessageStore())
    answers: dict[str, DeliveryFuture] = {}
    for step in steps:
        match step:
            case "put":
                path = f"{len(answers):03}"
                answers[path] = box.put(SESSION_ID, message(path))
            case "acknowledge" | "refuse" if gate.under_way:
                getattr(gate, step)()
            case "discard":
                box.withdraw(SESSION_ID, answers.values())
            case "settle":
                await settle()
        assert gate.under_way <= 1
    while any(not answer.done() for answer in answers.values()):
        await settle()
        if gate.under_way:
            gate.acknowledge()
    event(f"discarded: {sum(answer.cancelled() for answer in answers.values()) > 0}")
    assert gate.begun == sorted(set(gate.begun))
    assert gate.begun == [path for path, answer in answers.items() if not answer.cancelled()]
    assert gate.acknowledged == [
        p for p, answer in answers.items() if not answer.cancelled() and answer.result() is TAKEN
    ]
    await box.aclose()
