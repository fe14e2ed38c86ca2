"""Forwarded requests: the executor's session, agents and child runs."""

from typing import Any

import httpx
import msgspec
import pytest

from tests.support.gateway import Bench, RecordingCoordinator, bench, executor_at, gateway_to
from tests.support.serving import serving

START = {"type": "start_session", "agent_name": "echo", "parameters": {"message": "m"}}


async def test_an_executor_can_query_its_own_session() -> None:
    async with bench() as b:
        await b.http.post("/bind", json={"session_id": b.own, "executor_session_id": "exe-1"})
        assert (await b.http.get(f"/sessions/{b.own}")).json()["session"]["session_id"] == b.own
        assert (await b.http.get(f"/sessions/{b.own}/status")).json() == {"status": "running"}
        assert (await b.http.get(f"/sessions/{b.own}/events")).json() == {"events": []}
        assert (await b.http.get(f"/sessions/{b.own}/affinity")).json()["affinity"]["executor_session_id"] == "exe-1"
        assert (await b.http.get(f"/sessions/{b.own}/result")).json()["detail"]
        run_id = next(
            run["run_id"]
            for run in (await b.coordinator.http.get("/runs")).json()["runs"]
            if run["session_id"] == b.own
        )
        assert (await b.http.get(f"/runs/{run_id}")).json()["run_id"] == run_id


async def test_an_executor_can_query_health_and_agents() -> None:
    async with bench() as b:
        assert (await b.http.get("/health")).status_code == 200
        assert [agent["name"] for agent in (await b.http.get("/agents")).json()] == ["echo"]
        assert (await b.http.get("/agents", params={"tags": "none-such"})).json() == []
        assert (await b.http.get("/agents/echo")).json()["name"] == "echo"
        missing = await b.http.get("/agents/none-such")
        assert (missing.status_code, missing.json()) == (404, {"detail": "Agent not found: none-such"})


@pytest.mark.parametrize("parent", ["absent", "null", "own"])
async def test_the_parent_of_a_child_run_is_the_executors_session(parent: str) -> None:
    async with bench() as b:
        named: dict[str, Any] = {"absent": {}, "null": {"parent_session_id": None}, "own": {"parent_session_id": b.own}}
        answer = await b.http.post("/runs", json={**START, **named[parent], "additional_demands": {"tags": ["x"]}})
        assert answer.status_code == 201
        run = (await b.coordinator.http.get(f"/runs/{answer.json()['run_id']}")).json()
        assert (run["parent_session_id"], run["demands"]["tags"]) == (b.own, ["x"])
        assert (await b.session(answer.json()["session_id"]))["parent_session_id"] == b.own


async def test_a_child_run_can_be_followed_and_stopped() -> None:
    async with bench() as b:
        created = (await b.http.post("/runs", json=START)).json()
        session_id, run_id = created["session_id"], created["run_id"]
        before = len(b.proxy.calls)
        assert (await b.http.get(f"/sessions/{session_id}/status")).json() == {"status": "pending"}
        assert len(b.proxy.calls) == before + 1, "what was started here need not be asked for"
        assert (await b.http.get(f"/runs/{run_id}")).json()["status"] == "pending"
        assert (await b.http.post(f"/runs/{run_id}/stop")).status_code == 200
        assert await b.coordinator.run_status(created) == "stopped"


async def test_children_that_were_not_started_through_the_gateway_are_known() -> None:
    async with bench() as b:
        child = await b.child()
        for part in ("", "/status", "/events", "/affinity"):
            assert (await b.http.get(f"/sessions/{child['session_id']}{part}")).status_code == 200
        assert (await b.http.get(f"/runs/{child['run_id']}")).status_code == 200
        assert (await b.http.post(f"/sessions/{child['session_id']}/stop", json={"why": "done"})).status_code == 200
        assert await b.coordinator.run_status(child) == "stopped"


async def test_an_executor_cannot_write_to_a_child() -> None:
    async with bench() as b:
        child = (await b.child())["session_id"]
        assert (await b.http.post(f"/sessions/{child}/events", json={})).status_code == 403
        assert (await b.http.post(f"/sessions/{child}/bind", json={})).status_code == 403
        assert (await b.http.patch(f"/sessions/{child}/metadata", json={})).status_code == 403
        assert (await b.http.delete(f"/sessions/{child}")).status_code == 403


async def test_grandchildren_and_children_of_other_sessions_are_not_open() -> None:
    async with bench() as b:
        child = (await b.child())["session_id"]
        for parent in (child, b.other):
            stranger = await b.child(parent)
            assert (await b.http.get(f"/sessions/{stranger['session_id']}")).status_code == 403
            assert (await b.http.get(f"/runs/{stranger['run_id']}")).status_code == 403
            assert (await b.http.post(f"/runs/{stranger['run_id']}/stop")).status_code == 403
            assert await b.coordinator.run_status(stranger) == "pending"


async def test_an_executor_can_resume_only_children() -> None:
    async with bench() as b:
        child = await b.child()
        stranger = await b.coordinator.prompt()
        resume = {"type": "resume_session", "parameters": {"prompt": "again"}}
        answer = await b.http.post("/runs", json={**resume, "session_id": child["session_id"]})
        assert answer.status_code == 201
        assert answer.json()["session_id"] == child["session_id"]
        for session_id in (stranger["session_id"], b.own, "ses_unknown", f"{child['session_id']}/../{b.other}"):
            refused = await b.http.post("/runs", json={**resume, "session_id": session_id})
            assert refused.status_code == 403, session_id
        for session_id in (None, "", 7):
            assert (await b.http.post("/runs", json={**resume, "session_id": session_id})).status_code == 400
        assert len(b.proxy.calls_for("POST", "/runs")) == 1


async def runs_of(b: Bench) -> int:
    return len((await b.coordinator.http.get("/runs")).json()["runs"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"parameters": {"prompt": "x"}}', 400),
        (b'{"type": "stop_session", "parameters": {}}', 400),
        (b'{"type": ["start_session"], "parameters": {}}', 400),
        (b'{"type": "start_session", "parent_session_id": "OTHER", "parameters": {"prompt": "x"}}', 403),
        (b'{"type": "start_session", "parent_session_id": "", "parameters": {"prompt": "x"}}', 403),
        (b'{"type": "start_session", "parent_session_id": 0, "parameters": {"prompt": "x"}}', 400),
        (b'{"type": "start_session", "session_id": 7, "parameters": {"prompt": "x"}}', 400),
        (b'{"type": "start_session", "agent_name": "echo", "parameters": {}}', 400),
    ],
)
async def test_an_invalid_run_request_starts_nothing(body: bytes, status: int) -> None:
    async with bench() as b:
        before = await runs_of(b)
        answer = await b.http.post("/runs", content=body.replace(b"OTHER", b.other.encode()))
        assert answer.status_code == status
        assert answer.json()["detail"]
        assert await runs_of(b) == before
        assert (await b.http.get(f"/sessions/{b.other}")).status_code == 403


async def test_a_start_with_a_session_id_does_not_reveal_whether_the_session_exists() -> None:
    async with bench() as b:
        before = await runs_of(b)
        for session_id in (b.other, b.own, "ses_unknown"):
            answer = await b.http.post("/runs", json={**START, "session_id": session_id})
            assert answer.status_code == 403
            assert answer.json() == {
                "detail": "session_id: start_session gets a new session, which the Agent Coordinator names"
            }
        assert b.proxy.calls == []
        for nothing in (None, ""):
            answer = await b.http.post("/runs", json={**START, "session_id": nothing})
            assert answer.status_code == 201
        assert await runs_of(b) == before + 2


async def test_the_other_fields_of_a_run_are_forwarded_unchanged() -> None:
    recorder = RecordingCoordinator()
    async with (
        serving(recorder) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        body = b'{"type": "start_session", "parent_session_id": "ses_own", "parent_session_id": null, "x": 1.50}'
        assert (await http.post("/runs", content=body)).status_code == 200
        assert recorder.arrived[0].target == b"/runs"
        sent = msgspec.json.decode(recorder.arrived[0].body)
        assert sent == {"type": "start_session", "parent_session_id": "ses_own", "x": 1.5}
        assert b"1.50" in recorder.arrived[0].body


async def test_only_end_to_end_headers_are_forwarded() -> None:
    recorder = RecordingCoordinator(
        headers=[
            (b"set-cookie", b"a=b"),
            (b"keep-alive", b"timeout=5"),
            (b"connection", b"x-hop"),
            (b"x-hop", b"1"),
            (b"x-end", b"1"),
        ]
    )
    async with (
        serving(recorder) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        sent = {
            "authorization": "Bearer forged",
            "cookie": "a=b",
            "connection": "x-hop, keep-alive",
            "x-hop": "1",
            "te": "trailers",
            "x-forwarded-for": "1.2.3.4",
            "x-end": "1",
            "x-bytes": b"caf\xe9".decode("latin-1"),
            "accept": "application/json",
        }
        answer = await http.get(
            "/health", headers=[(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        )
        assert answer.status_code == 200
        assert answer.headers["x-end"] == "1"
        assert not {"set-cookie", "keep-alive", "x-hop"} & set(answer.headers)
        [arrived] = recorder.arrived
        assert arrived.values(b"x-end") == [b"1"]
        assert arrived.values(b"x-bytes") == [b"caf\xe9"]
        assert arrived.values(b"accept") == [b"application/json"]
        assert arrived.values(b"host") == [httpx.URL(url).netloc]
        for name in (b"authorization", b"cookie", b"x-hop", b"te", b"x-forwarded-for"):
            assert arrived.values(name) == []


async def test_a_compressed_response_is_forwarded_unchanged() -> None:
    recorder = RecordingCoordinator(headers=[(b"content-encoding", b"made-up")])
    async with (
        serving(recorder) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        answer = await http.get("/health", headers={"accept-encoding": "made-up"})
        assert answer.headers["content-encoding"] == "made-up"
        assert recorder.arrived[0].values(b"accept-encoding") == [b"made-up"]
        del http.headers["accept-encoding"]
        await http.get("/health")
        assert recorder.arrived[1].values(b"accept-encoding") == [b"identity"]


async def test_only_permitted_query_parameters_are_forwarded_and_no_body_of_a_get() -> None:
    recorder = RecordingCoordinator()
    async with (
        serving(recorder) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        await http.get("/agents?tags=a%26self%3Dtrue&self=true#x")
        await http.get("/sessions/ses_own?self=true&session_id=ses_other")
        await http.request("GET", "/health", content=b"body")
        assert [each.target for each in recorder.arrived] == [
            b"/agents?tags=a%26self%3Dtrue",
            b"/sessions/ses_own",
            b"/health",
        ]
        assert recorder.arrived[2].body == b""


async def test_a_response_about_another_session_does_not_make_a_session_a_child() -> None:
    """The coordinator may accept another spelling of a session id. The gateway must not."""
    recorder = RecordingCoordinator({"session": {"session_id": "ses_child", "parent_session_id": "ses_own"}})
    async with (
        serving(recorder) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        assert (await http.get("/sessions/SES_CHILD/result")).status_code == 403
        assert (await http.get("/sessions/ses_child/result")).status_code == 200
