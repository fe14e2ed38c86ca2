"""The calls that submit and query work: protocol.md, sections 1.3 and 1.4."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_server.http import requests
from fsm_runner.coordinator_server.http.requests import BODY_LIMIT_BYTES
from fsm_runner.coordinator_server.timings import Timings
from tests.support.embedded import autonomous, embedded_coordinator
from tests.support.watch import AT_ONCE_S

SHORT_POLL = Timings(poll_timeout_s=0.05)


async def test_an_unknown_agent_is_a_404_that_lists_the_known_agents() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "parameters": {}, "agent_name": "nobody"}
        )
        assert answer.status_code == 404
        assert "nobody" in answer.json()["detail"]
        assert "echo" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "other"}, "type"),
        ({"parameters": []}, "parameters"),
        ({"type": None}, "type"),
        ({"parameters": None}, "parameters"),
        ({"execution_mode": "later"}, "execution_mode"),
        ({"additional_demands": {"tags": [1]}}, "additional_demands"),
    ],
)
async def test_an_invalid_field_of_a_run_is_named(body: dict[str, Any], field: str) -> None:
    async with embedded_coordinator() as coordinator:
        sound = {"type": "start_session", "parameters": {"prompt": "x"}}
        answer = await coordinator.http.post("/runs", json={**sound, **body})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_a_session_id_can_be_used_once() -> None:
    async with embedded_coordinator() as coordinator:
        assert (await coordinator.prompt(session_id="ses_mine"))["session_id"] == "ses_mine"
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "parameters": {"prompt": "x"}, "session_id": "ses_mine"}
        )
        assert answer.status_code == 409
        assert len((await coordinator.http.get("/runs")).json()["runs"]) == 1


@pytest.mark.parametrize("session_id", ["a/b", "..", "a b", "é", "a\n", "x" * 201])
async def test_a_session_id_that_does_not_fit_into_a_url_is_refused(session_id: str) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "parameters": {"prompt": "x"}, "session_id": session_id}
        )
        assert answer.status_code == 400 and "session_id" in answer.json()["detail"]


async def test_a_resume_needs_an_existing_session_and_an_agent_that_is_not_procedural() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        run = await coordinator.submit()
        resume = {"type": "resume_session", "parameters": {"message": "more"}}
        assert (await coordinator.http.post("/runs", json=resume)).status_code == 400
        assert (await coordinator.http.post("/runs", json={**resume, "session_id": "ses_unknown"})).status_code == 404
        answer = await coordinator.http.post("/runs", json={**resume, "session_id": run["session_id"]})
        assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "procedural_agent_no_resume")


async def test_a_resume_goes_to_the_host_and_profile_that_the_session_is_bound_to() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        near, far = await coordinator.register(**autonomous()), await coordinator.register(**autonomous(hostname="far"))
        run = await coordinator.prompt(project_dir="/mine")
        await coordinator.claim(near)
        await coordinator.bind(run)
        await coordinator.report(run, "completed", near, session_status="idle")
        resumed = await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        assert (await coordinator.poll(far)).status_code == 204
        claimed = await coordinator.claim(near)
        assert claimed["run_id"] == resumed["run_id"]
        assert (claimed["type"], claimed["project_dir"]) == ("resume_session", "/mine")
        assert claimed["demands"] == {"hostname": "host", "executor_profile": "echo", "executor_type": "autonomous"}


async def test_a_resume_goes_to_the_runner_of_the_live_executor_and_later_to_any_matching_one() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        first = await coordinator.register(**autonomous(project_dir="/first"))
        twin = await coordinator.register(**autonomous(project_dir="/twin"))
        run = await coordinator.prompt()
        await coordinator.claim(first)
        await coordinator.bind(run)
        await coordinator.report(run, "completed", first, session_status="idle")
        resumed = await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        assert (await coordinator.poll(twin)).status_code == 204
        assert (await coordinator.claim(first))["run_id"] == resumed["run_id"]
        await coordinator.report(resumed, "completed", first, session_status="finished")
        again = await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        assert (await coordinator.claim(twin))["run_id"] == again["run_id"]


async def test_runs_of_a_runners_agent_go_to_that_runner() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        owner, other = await coordinator.register(), await coordinator.register(hostname="other", agents=[])
        run = await coordinator.submit()
        assert (await coordinator.poll(other)).status_code == 204
        assert (await coordinator.claim(owner))["run_id"] == run["run_id"]


async def test_runs_without_an_agent_are_for_autonomous_runners() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        procedural = await coordinator.register()
        await coordinator.prompt()
        assert (await coordinator.poll(procedural)).status_code == 204


async def test_placeholders_are_filled_in_except_those_of_the_runner(tmp_path: Path) -> None:
    agent = {
        "name": "helper",
        "system_prompt": "Help ${params.prompt} in ${scope.area}, ${params.other}.",
        "mcp_servers": {"tools": {"url": "${runner.orchestrator_mcp_url}", "config": {"n": "${scope.n}"}}},
    }
    (tmp_path / "helper.json").write_text(json.dumps(agent))
    async with embedded_coordinator(agents_dir=tmp_path) as coordinator:
        runner_id = await coordinator.register(**autonomous())
        await coordinator.prompt(agent_name="helper", scope={"area": "here", "n": 5})
        blueprint = (await coordinator.claim(runner_id))["resolved_agent_blueprint"]
        assert blueprint["system_prompt"] == "Help hi in here, ${params.other}."
        assert blueprint["mcp_servers"] == {
            "tools": {"url": "${runner.orchestrator_mcp_url}", "config": {"n": "5"}},
        }


async def test_agents_are_listed_by_tags_and_found_by_name(tmp_path: Path) -> None:
    for name, tags in (("one", ["a"]), ("two", ["a", "b"])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "tags": tags}))
    async with embedded_coordinator(agents_dir=tmp_path) as coordinator:
        await coordinator.register()

        async def names(query: str) -> list[str]:
            return [agent["name"] for agent in (await coordinator.http.get(f"/agents{query}")).json()]

        assert await names("") == ["echo", "one", "two"]
        assert await names("?tags=a") == ["one", "two"]
        assert await names("?tags=a,%20b") == ["two"]
        assert (await coordinator.http.get("/agents/two")).json()["tags"] == ["a", "b"]
        assert (await coordinator.http.get("/agents/three")).status_code == 404


async def test_runs_are_listed_oldest_first_and_by_status() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        first, second = await coordinator.submit(), await coordinator.submit()
        await coordinator.claim(runner_id)

        async def listed(query: str) -> list[str]:
            return [run["run_id"] for run in (await coordinator.http.get(f"/runs{query}")).json()["runs"]]

        assert await listed("") == [first["run_id"], second["run_id"]]
        assert await listed("?status=pending") == [second["run_id"]]
        claimed = (await coordinator.http.get("/runs?status=claimed")).json()["runs"]
        assert [run["runner_id"] for run in claimed] == [runner_id]
        assert (await coordinator.http.get("/runs/run_unknown")).json() == {"detail": "Run not found"}


async def test_ended_runs_and_sessions_cannot_be_stopped() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "completed", runner_id)
        assert (await coordinator.http.post(f"/runs/{run['run_id']}/stop")).status_code == 400
        assert (await coordinator.http.post(f"/sessions/{run['session_id']}/stop")).json()["status"] == "finished"
        assert (await coordinator.http.post("/runs/run_unknown/stop")).status_code == 404
        assert (await coordinator.http.post("/sessions/ses_unknown/stop")).status_code == 404


async def test_the_stop_of_an_idle_session_reaches_its_runner() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous())
        run = await coordinator.prompt()
        await coordinator.claim(runner_id)
        await coordinator.report(run, "completed", runner_id, session_status="idle")
        assert (await coordinator.http.post(f"/sessions/{run['session_id']}/stop")).json()["status"] == "stopping"
        assert (await coordinator.poll(runner_id)).json() == {"stop_sessions": [run["session_id"]]}


async def test_bind_sets_the_session_to_running_and_sets_its_affinity() -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt(project_dir="/first")
        assert (await coordinator.bind(run, project_dir="/second")).status_code == 200
        assert (await coordinator.session(run))["status"] == "running"
        affinity = (await coordinator.http.get(f"/sessions/{run['session_id']}/affinity")).json()["affinity"]
        assert affinity == {
            "session_id": run["session_id"],
            "hostname": "host",
            "project_dir": "/second",
            "executor_profile": "echo",
            "executor_session_id": "exe-1",
        }
        assert (await coordinator.bind({"session_id": "ses_unknown"})).status_code == 404
        answer = await coordinator.bind(run, executor_session_id=None)
        assert answer.json()["detail"][0]["loc"] == ["body", "executor_session_id"]


async def test_the_result_is_the_result_event_with_the_greatest_timestamp_as_text() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        assert (await coordinator.http.get(f"/sessions/{run['session_id']}/result")).status_code == 400
        await coordinator.report(run, "completed", runner_id)
        assert (await coordinator.http.get(f"/sessions/{run['session_id']}/result")).status_code == 404
        await coordinator.event(run, event_type="result", timestamp="2026-01-01T00:00:09Z", result_data={"n": 9})
        await coordinator.event(run, event_type="result", timestamp="2026-01-01T00:00:10Z", result_data={"n": 10})
        await coordinator.event(run, event_type="result", timestamp="2026-01-01T00:00:01Z", result_text="early")
        await coordinator.event(run, timestamp="2027-01-01T00:00:00Z")
        answer = await coordinator.http.get(f"/sessions/{run['session_id']}/result")
        assert answer.json() == {"result_text": None, "result_data": {"n": 10}}
        await coordinator.bind(run)
        refused = await coordinator.http.get(f"/sessions/{run['session_id']}/result")
        assert (refused.status_code, refused.json()) == (400, {"detail": "Session not finished"})


async def test_events_are_stored_unchanged_and_ordered_by_timestamp() -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt()
        late = await coordinator.event(run, timestamp="2", tool_output=[1, {"x": None}])
        assert (late.status_code, late.json()) == (201, {"ok": True})
        await coordinator.event(run, timestamp="1", whatever=True)
        events = (await coordinator.http.get(f"/sessions/{run['session_id']}/events")).json()["events"]
        assert [event["timestamp"] for event in events] == ["1", "2"]
        assert events[0]["whatever"] is True
        assert events[1]["tool_output"] == [1, {"x": None}]
        assert (await coordinator.event(run, session_id="ses_other")).status_code == 400
        assert (await coordinator.event({"session_id": "ses_unknown"})).status_code == 404
        assert (await coordinator.event(run, timestamp=None)).status_code == 422


async def test_metadata_changes_only_the_given_fields() -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt(project_dir="/mine")
        path = f"/sessions/{run['session_id']}/metadata"
        answer = await coordinator.http.patch(path, json={"last_resumed_at": "2026-01-01", "unknown": 1})
        assert answer.status_code == 200
        session = await coordinator.session(run)
        assert (session["last_resumed_at"], session["project_dir"]) == ("2026-01-01", "/mine")
        assert (await coordinator.http.patch(path, json={})).status_code == 200
        assert (await coordinator.http.patch(path, json={"hostname": 1})).status_code == 422
        assert (await coordinator.http.patch("/sessions/ses_unknown/metadata", json={})).status_code == 404


async def test_a_session_is_deleted_with_its_runs_and_events_unless_it_is_live() -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt()
        path = f"/sessions/{run['session_id']}"
        await coordinator.bind(run)
        assert (await coordinator.http.delete(path)).status_code == 409
        await coordinator.http.post(f"/runs/{run['run_id']}/stop")
        assert (await coordinator.http.delete(path)).json()["deleted"] == {"runs_count": 1, "events_count": 1}
        assert (await coordinator.http.get(path)).json() == {"detail": "Session not found"}
        assert (await coordinator.http.get(f"/runs/{run['run_id']}")).status_code == 404
        assert (await coordinator.http.get(f"{path}/events")).status_code == 404
        assert (await coordinator.http.get(f"{path}/status")).json() == {"status": "not_existent"}
        assert (await coordinator.http.delete(path)).status_code == 404


async def test_every_change_of_a_run_is_on_the_event_stream() -> None:
    async with embedded_coordinator(Timings(keep_alive_s=0.02)) as coordinator:
        runner_id = await coordinator.register()
        async with coordinator.http.stream("GET", "/sse/sessions", timeout=AT_ONCE_S) as stream:
            # Without these, a proxy may buffer events.
            assert stream.headers["cache-control"] == "no-cache"
            assert stream.headers["x-accel-buffering"] == "no"
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: init"
            while not (await anext(lines)).startswith(": keep-alive"):
                pass
            run = await coordinator.submit()
            await coordinator.claim(runner_id)
            await coordinator.report(run, "started", runner_id)
            await coordinator.report(run, "completed", runner_id)
            seen: list[tuple[str, Any]] = []
            kind = ""
            while len(seen) < 4:
                line = await anext(lines)
                kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
                if line.startswith("data: ") and kind.startswith("run_"):
                    seen.append((kind, json.loads(line.removeprefix("data: "))))
        ids = {"run_id": run["run_id"], "session_id": run["session_id"]}
        assert seen == [
            ("run_created", {**ids, "status": "pending"}),
            ("run_updated", {**ids, "status": "claimed"}),
            ("run_updated", {**ids, "status": "running"}),
            ("run_updated", {**ids, "status": "completed"}),
        ]


async def test_an_event_of_many_lines_is_one_line_on_the_event_stream() -> None:
    event = {"event_type": "result", "timestamp": "1", "result_data": {"number": 2**200, "text": "a\nb\r\n"}}
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt()
        event["session_id"] = run["session_id"]
        query = f"/sse/sessions?include_init=false&session_id={run['session_id']}"
        async with coordinator.http.stream("GET", query, timeout=AT_ONCE_S) as stream:
            path = f"/sessions/{run['session_id']}/events"
            assert (await coordinator.http.post(path, content=json.dumps(event, indent="\r\n "))).status_code == 201
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: event"
            received = json.loads((await anext(lines)).removeprefix("data: "))
            assert await anext(lines) == ""
        assert received == {"session_id": run["session_id"], "data": event}
        assert (await coordinator.http.get(path)).json()["events"] == [event]


async def test_unknown_paths_and_methods_and_web_pages_get_json_errors() -> None:
    async with embedded_coordinator() as coordinator:
        assert (await coordinator.http.get("/nothing")).json() == {"detail": "Not Found"}
        assert (await coordinator.http.put("/runs")).json() == {"detail": "Method Not Allowed"}
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "parameters": {"prompt": "x"}}, headers={"Origin": "http://evil"}
        )
        assert answer.status_code == 403
        assert (await coordinator.http.get("/runs")).json() == {"runs": []}


async def test_a_body_over_the_limit_is_413() -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.post("/runs", content=b" " * (BODY_LIMIT_BYTES + 1))
        assert answer.status_code == 413
        assert "detail" in answer.json()


@pytest.mark.parametrize(
    ("announced_bytes", "status"), [(BODY_LIMIT_BYTES + 1, b"413"), (10, b"408")], ids=["too large", "too slow"]
)
async def test_an_announced_body_that_does_not_arrive_is_a_408(
    announced_bytes: int, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_LIMIT_S", 0.1)
    async with embedded_coordinator() as coordinator:
        url = httpx.URL(coordinator.server.url)
        assert url.port is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % announced_bytes)
        async with asyncio.timeout(AT_ONCE_S):
            answer = await reader.readline()
        assert answer.startswith(b"HTTP/1.1 " + status)
        writer.close()
