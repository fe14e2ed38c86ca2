"""Messages of executors through the gateway: bind, events and metadata."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from tests.support.gateway import bench, event_of, executor_at


async def test_the_runner_adds_its_fields_to_a_bind() -> None:
    async with bench() as b:
        body = {"session_id": b.own, "executor_session_id": "exe-1", "project_dir": "/p", "hostname": "forged"}
        answer = await b.http.post("/bind", json=body)
        assert answer.status_code == 200
        assert answer.json()["ok"] is True
        session = await b.session(b.own)
        assert session["status"] == "running"
        assert session["executor_session_id"] == "exe-1"
        assert (session["hostname"], session["executor_profile"], session["project_dir"]) == ("host", "profile", "/p")


async def test_an_event_is_delivered_byte_for_byte() -> None:
    async with bench() as b:
        body = (
            b'{ "tool_output":1.10, "session_id" : "%s",\n"event_type":"post_tool","timestamp":"2026-01-01T00:00:00Z",'
            b'"tool_name":"caf\xc3\xa9 \\u00e9", "unknown": [null]}' % b.own.encode()
        )
        answer = await b.http.post("/events", content=body)
        assert (answer.status_code, answer.json()) == (201, {"ok": True})
        assert [call.body for call in b.proxy.calls_for("POST", f"/sessions/{b.own}/events")] == [body]


async def test_metadata_is_delivered_without_the_session_id() -> None:
    async with bench() as b:
        answer = await b.http.patch("/metadata", json={"session_id": b.own, "last_resumed_at": "now", "unknown": 1.50})
        assert answer.status_code == 200
        [call] = b.proxy.calls_for("PATCH", f"/sessions/{b.own}/metadata")
        assert call.json == {"last_resumed_at": "now", "unknown": 1.5}
        assert (await b.session(b.own))["last_resumed_at"] == "now"


async def test_metadata_for_the_runner_is_not_delivered() -> None:
    async with bench() as b:
        for_runner = {"session_id": b.own, "status_detail": "waits", "usage": {"turns": 1}}
        for body in (for_runner, {**for_runner, "last_resumed_at": "now"}, {"session_id": b.own, "usage": "much"}):
            answer = await b.http.patch("/metadata", json=body)
            assert (answer.status_code, answer.json()["ok"]) == (200, True)
        sent = [call.json for call in b.proxy.calls_for("PATCH", f"/sessions/{b.own}/metadata")]
    assert sent == [{"last_resumed_at": "now"}, {"usage": "much"}]


async def test_metadata_changes_no_field_of_the_runner() -> None:
    async with bench() as b:
        await b.http.post("/bind", json={"session_id": b.own, "executor_session_id": "exe-1"})
        workflow = {"name": "w", "state": "s", "since": "now", "visit": 1}
        forged = {"hostname": "elsewhere", "executor_profile": "another", "workflow": workflow}
        for path, body in [
            ("/metadata", {"session_id": b.own, **forged, "last_resumed_at": "now"}),
            (f"/sessions/{b.own}/metadata", forged),
        ]:
            assert (await b.http.patch(path, json=body)).status_code == 200
        sent = [call.json for call in b.proxy.calls_for("PATCH", f"/sessions/{b.own}/metadata")]
        assert sent == [{"last_resumed_at": "now"}, {}]
        session = await b.session(b.own)
        assert (session["hostname"], session["executor_profile"]) == ("host", "profile")
        assert "workflow" not in session


@pytest.mark.parametrize("project_dir", ["", None])
async def test_a_bind_may_have_an_empty_project_dir(project_dir: str | None) -> None:
    async with bench() as b:
        body = {"session_id": b.own, "executor_session_id": "exe-1", "project_dir": project_dir}
        assert (await b.http.post("/bind", json=body)).status_code == 200
        [call] = b.proxy.calls_for("POST", f"/sessions/{b.own}/bind")
        assert "project_dir" not in call.json


@pytest.mark.parametrize("kind", ["run_start", "run_completed"])
async def test_an_event_that_the_coordinator_writes_itself_is_refused(kind: str) -> None:
    async with bench() as b:
        for body in (
            msgspec.json.encode(event_of(b.own, event_type=kind)),
            b'{"session_id": "%s", "event\\u005ftype": "%s"}' % (b.own.encode(), kind.encode()),
        ):
            for path in ("/events", f"/sessions/{b.own}/events"):
                answer = await b.http.post(path, content=body)
                assert answer.status_code == 403
                assert kind in answer.json()["detail"]
        assert b.proxy.calls == []
        assert (await b.http.post("/events", json=event_of(b.own))).status_code == 201


async def test_the_coordinators_own_paths_work_too() -> None:
    async with bench() as b:
        bound = await b.http.post(
            f"/sessions/{b.own}/bind", json={"executor_session_id": "exe-1", "hostname": "forged"}
        )
        received = await b.http.post(f"/sessions/{b.own}/events", json=event_of(b.own))
        patched = await b.http.patch(f"/sessions/{b.own}/metadata", json={"last_resumed_at": "now"})
        assert [bound.status_code, received.status_code, patched.status_code] == [200, 201, 200]
        assert len(await b.events(b.own)) == 1
        assert (await b.session(b.own))["hostname"] == "host"


@pytest.mark.sends_invalid_requests("an event without a timestamp")
async def test_a_refusal_of_the_coordinator_is_forwarded_unchanged() -> None:
    async with bench() as b:
        answer = await b.http.post("/events", json={"session_id": b.own, "event_type": "message"})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "timestamp"]
        assert (await b.http.post("/events", json=event_of(b.own))).status_code == 201


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "missing"),
    (b"{", "not valid JSON"),
    (b"[1]", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    (b"\xff", "not valid JSON"),
    (b"[" * 100_000, "not a JSON object"),
    (b'{"x": [1,}', "not valid JSON"),
    (b'{"x": {"y": nul}}', "not valid JSON"),
    (b'{"x": ' + b"[" * 100_000, "not valid JSON"),
    (b'{"executor_session_id": "e"}', "session_id"),
    (b'{"session_id": "", "executor_session_id": "e"}', "session_id"),
    (b'{"session_id": 7, "executor_session_id": "e"}', "session_id"),
    (b'{"session_id": null, "executor_session_id": "e"}', "session_id"),
    (b'{"session_id": ["OWN"], "executor_session_id": "e"}', "session_id"),
]


@pytest.mark.parametrize(("method", "path"), [("POST", "/bind"), ("POST", "/events"), ("PATCH", "/metadata")])
async def test_an_invalid_body_is_a_400(method: str, path: str) -> None:
    async with bench() as b:
        for body, reason in BAD_BODIES:
            answer = await b.http.request(method, path, content=body.replace(b"OWN", b.own.encode()))
            assert answer.status_code == 400, body[:80]
            assert reason in answer.json()["detail"]
        assert b.proxy.calls == []


@pytest.mark.parametrize("fields", [{}, {"executor_session_id": ""}, {"executor_session_id": 1}, {"project_dir": 1}])
async def test_a_bind_needs_the_executors_own_id(fields: dict[str, Any]) -> None:
    async with bench() as b:
        body = {"executor_session_id": "e"} if "project_dir" in fields else {}
        answer = await b.http.post("/bind", json={"session_id": b.own, **body, **fields})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(("executor_session_id:", "project_dir:"))
        assert b.proxy.calls == []


async def test_another_session_is_refused_in_the_path_and_in_the_body() -> None:
    async with bench() as b:
        for method, path, body in [
            ("POST", "/bind", {"session_id": b.other, "executor_session_id": "e"}),
            ("POST", "/events", event_of(b.other)),
            ("PATCH", "/metadata", {"session_id": b.other, "last_resumed_at": "now"}),
            ("POST", f"/sessions/{b.own}/bind", {"session_id": b.other, "executor_session_id": "e"}),
            ("POST", f"/sessions/{b.own}/events", event_of(b.other)),
            ("PATCH", f"/sessions/{b.own}/metadata", {"session_id": b.other, "last_resumed_at": "now"}),
            ("POST", f"/sessions/{b.other}/bind", {"executor_session_id": "e"}),
            ("POST", f"/sessions/{b.other}/events", event_of(b.own)),
            ("POST", f"/sessions/{b.other}/events", event_of(b.other)),
            ("PATCH", f"/sessions/{b.other}/metadata", {"last_resumed_at": "now"}),
            ("POST", "/bind", {"session_id": b.own.upper(), "executor_session_id": "e"}),
            ("POST", "/events", event_of(b.own + " ")),
        ]:
            answer = await b.http.request(method, path, json=body)
            assert answer.status_code == 403, (method, path)
            assert b.other not in answer.json()["detail"] or b.other in path
        assert b.proxy.calls == []
        assert await b.events(b.other) == []


async def test_the_last_of_two_equal_keys_counts() -> None:
    async with bench() as b:
        body = b'{"session_id": "%s", "session_id": "%s"}' % (b.own.encode(), b.other.encode())
        assert (await b.http.patch("/metadata", content=body)).status_code == 403


async def test_between_turns_a_session_cannot_be_bound() -> None:
    async with bench(has_turn=lambda: False) as b:
        answer = await b.http.post("/bind", json={"session_id": b.own, "executor_session_id": "e"})
        assert answer.status_code == 409
        assert "no turn" in answer.json()["detail"]
        assert (await b.http.post("/events", json=event_of(b.own))).status_code == 201


async def test_events_of_two_endpoints_of_a_session_keep_their_order() -> None:
    async with bench() as b, executor_at(b.endpoints.endpoint(b.own)) as second:
        for number in range(10):
            http = second if number % 2 else b.http
            assert (await http.post("/events", json=event_of(b.own, number))).status_code == 201
        sent = [call.json["content"][0]["text"] for call in b.proxy.calls_for("POST", f"/sessions/{b.own}/events")]
        assert sent == [str(number) for number in range(10)]


async def test_many_events_at_once_are_sent_one_after_another() -> None:
    async with bench() as b:
        answers = await asyncio.gather(*(b.http.post("/events", json=event_of(b.own, n)) for n in range(40)))
        assert {answer.status_code for answer in answers} == {201}
        calls = b.proxy.calls_for("POST", f"/sessions/{b.own}/events")
        assert len(calls) == 40
        for earlier, later in itertools.pairwise(calls):
            assert earlier.answered_at is not None
            assert earlier.answered_at < later.begun_at
        assert len(await b.events(b.own)) == 40
