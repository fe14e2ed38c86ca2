"""Messages and forwarded requests of executors during an outage of the coordinator."""

import asyncio
import time

import httpx
import msgspec
import pytest

from fsm_runner.gateway.endpoint import LIMITS
from tests.support import faults
from tests.support.gateway import PATIENT, bench, event_of
from tests.support.logs import log_lines

IMPATIENT = msgspec.structs.replace(LIMITS, hold_s=0.01)
HOLD_S = 2.0
MESSAGES_IN_A_ROW = 60
MESSAGES = r"/sessions/[^/]+/(events|bind|metadata)"


async def test_messages_are_accepted_during_an_outage_and_delivered_in_order() -> None:
    async with bench(IMPATIENT) as b:
        b.proxy.fault("POST", MESSAGES, faults.reset(), times=None)
        b.proxy.fault("PATCH", MESSAGES, faults.reset(), times=None)
        bound = await b.http.post("/bind", json={"session_id": b.own, "executor_session_id": "exe-1"})
        received = [await b.http.post("/events", json=event_of(b.own, number)) for number in range(5)]
        patched = await b.http.patch("/metadata", json={"session_id": b.own, "last_resumed_at": "now"})
        assert (bound.status_code, bound.json()) == (200, {"ok": True})
        assert [(answer.status_code, answer.json()) for answer in received] == [(201, {"ok": True})] * 5
        assert (patched.status_code, patched.json()) == (200, {"ok": True})
        assert await b.events(b.own) == []

        b.proxy.heal()
        await b.proxy.answered("PATCH", MESSAGES)
        delivered = [call.path.rsplit("/", 1)[1] for call in b.proxy.calls if call.acknowledged]
        assert delivered == ["bind", *["events"] * 5, "metadata"]
        texts = [call.json["content"][0]["text"] for call in b.proxy.acknowledged("POST", r".*/events")]
        assert texts == ["0", "1", "2", "3", "4"]
        assert (await b.session(b.own))["executor_session_id"] == "exe-1"


@pytest.mark.sends_invalid_requests("an event without a timestamp")
async def test_only_the_first_unacknowledged_message_is_held() -> None:
    async with bench(msgspec.structs.replace(LIMITS, hold_s=HOLD_S)) as b:
        released = asyncio.Event()
        b.proxy.fault("POST", MESSAGES, faults.hold_request(released))
        begun_s = time.monotonic()
        for number in range(MESSAGES_IN_A_ROW):
            assert (await b.http.post("/events", json=event_of(b.own, number))).status_code == 201
        assert HOLD_S <= time.monotonic() - begun_s < HOLD_S * MESSAGES_IN_A_ROW / 2

        released.set()
        await b.proxy.answered("POST", MESSAGES, MESSAGES_IN_A_ROW)
        refused = await b.http.post("/events", json={"session_id": b.own, "event_type": "x"})
        assert refused.status_code == 422, "the coordinator's own answer is waited for again"
        texts = [call.json["content"][0]["text"] for call in b.proxy.acknowledged("POST", MESSAGES)]
        assert texts == [str(number) for number in range(MESSAGES_IN_A_ROW)]


@pytest.mark.sends_invalid_requests("an event without a timestamp")
async def test_the_gateway_waits_for_the_coordinators_response() -> None:
    async with bench(PATIENT) as b:
        released = asyncio.Event()
        b.proxy.fault("POST", MESSAGES, faults.hold(released))
        posting = asyncio.create_task(b.http.post("/events", json={"session_id": b.own, "event_type": "x"}))
        await b.proxy.carried_out("POST", MESSAGES)
        assert not posting.done()
        released.set()
        assert (await posting).status_code == 422


async def test_a_message_is_delivered_after_its_request_was_answered() -> None:
    async with bench(IMPATIENT) as b:
        released = asyncio.Event()
        b.proxy.fault("POST", MESSAGES, faults.hold_request(released))
        assert (await b.http.post("/events", json=event_of(b.own))).status_code == 201
        released.set()
        await b.proxy.answered("POST", MESSAGES)
        assert len(b.proxy.calls_for("POST", MESSAGES)) == 1
        assert len(await b.events(b.own)) == 1


async def test_a_message_is_delivered_although_its_client_disconnects() -> None:
    async with bench(PATIENT) as b:
        released = asyncio.Event()
        b.proxy.fault("POST", MESSAGES, faults.hold_request(released))
        posting = asyncio.create_task(b.http.post("/events", json=event_of(b.own)))
        await b.proxy.seen("POST", MESSAGES)
        posting.cancel()
        await asyncio.wait([posting])
        released.set()
        await b.proxy.answered("POST", MESSAGES)
        assert len(await b.events(b.own)) == 1


async def test_a_session_above_the_limit_is_refused_and_logged_once_and_accepted_later() -> None:
    with log_lines() as log:
        async with bench(IMPATIENT, undelivered_limit_bytes=20_000) as b:
            b.proxy.fault("POST", MESSAGES, faults.reset(), times=None)
            statuses = []
            for number in range(40):
                answer = await b.http.post("/events", json=event_of(b.own, number, padding="x" * 1000))
                statuses.append(answer.status_code)
            taken = statuses.count(201)
            assert statuses == [201] * taken + [502] * (40 - taken)
            assert 5 < taken < 20
            assert "no more than 20,000 bytes are kept" in answer.json()["detail"]
            assert len([line for line in log if "messages of an executor are refused" in line]) == 1

            b.proxy.heal()
            await b.proxy.answered("POST", MESSAGES, taken)
            again = await b.http.post("/events", json=event_of(b.own, 99))
            assert again.status_code == 201
            await b.proxy.answered("POST", MESSAGES, taken + 1)
            texts = [call.json["content"][0]["text"] for call in b.proxy.acknowledged("POST", MESSAGES)]
            assert texts == [*map(str, range(taken)), "99"]

            b.proxy.fault("POST", MESSAGES, faults.reset(), times=None)
            while (await b.http.post("/events", json=event_of(b.own, padding="x" * 5000))).status_code == 201:
                pass
            assert len([line for line in log if "messages of an executor are refused" in line]) == 2


async def test_forwarded_requests_are_a_502_without_the_coordinators_address() -> None:
    async with bench() as b:
        b.proxy.fault("GET", ".*", faults.reset(), times=None)
        b.proxy.fault("POST", "/runs", faults.reset(), times=None)
        started = {"type": "start_session", "agent_name": "echo", "parameters": {"message": "m"}}
        for answer in [
            await b.http.get("/health"),
            await b.http.get(f"/sessions/{b.own}"),
            await b.http.get(f"/sessions/{b.other}"),
            await b.http.get("/runs/run_1"),
            await b.http.post("/runs", json=started),
        ]:
            assert answer.status_code == 502
            assert answer.json() == {"detail": "The Agent Coordinator cannot be reached at the moment"}


async def test_a_coordinator_that_refuses_connections_is_a_502_at_once() -> None:
    async with bench() as b:
        await b.proxy.__aexit__(None, None, None)
        # The HTTP client's own time limit guards this test.
        assert (await b.http.get("/health")).status_code == 502


async def test_an_unreadable_response_to_the_look_up_of_a_session_is_a_502() -> None:
    async with bench() as b:
        child = await b.child()
        for kind in [faults.html(), faults.broken_json(), faults.status(500)]:
            b.proxy.fault("GET", f"/sessions/{child['session_id']}", kind)
            assert (await b.http.get(f"/sessions/{child['session_id']}/status")).status_code == 502
        assert (await b.http.get(f"/sessions/{child['session_id']}/status")).status_code == 200


async def test_a_message_whose_outbox_is_closed_is_a_502() -> None:
    async with bench(PATIENT) as b:
        b.proxy.fault("POST", MESSAGES, faults.reset(), times=None)
        posting: asyncio.Task[httpx.Response] = asyncio.create_task(b.http.post("/events", json=event_of(b.own)))
        await b.proxy.seen("POST", MESSAGES)
        await b.endpoints._context.outbox.aclose()
        answer = await posting
        assert answer.status_code == 502
        assert "dropped the message" in answer.json()["detail"]
