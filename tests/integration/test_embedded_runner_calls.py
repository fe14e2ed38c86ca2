"""The runner's calls and their responses: protocol.md, section 1.1."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_server.timings import Timings
from tests.support.embedded import ECHO_AGENT, Clock, autonomous, embedded_coordinator, registration

SHORT_POLL = Timings(poll_timeout_s=0.05)


async def test_health_is_answered_when_up() -> None:
    async with embedded_coordinator() as coordinator:
        assert (await coordinator.http.get("/health")).status_code == 200


async def test_a_registration_returns_the_id_and_the_intervals() -> None:
    async with embedded_coordinator(Timings()) as coordinator:
        answer = await coordinator.http.post("/runner/register", json=registration())
        assert answer.json() == {
            "runner_id": answer.json()["runner_id"],
            "poll_endpoint": "/runner/runs",
            "poll_timeout_seconds": 30,
            "heartbeat_interval_seconds": 60,
            "registration": answer.json()["registration"],
        }


@pytest.mark.parametrize("changed", ["hostname", "project_dir", "executor_profile"])
async def test_runners_differ_by_each_part_of_the_identity(changed: str) -> None:
    async with embedded_coordinator() as coordinator:
        first = await coordinator.register(agents=[])
        assert await coordinator.register(agents=[], **{changed: "other"}) != first
        assert await coordinator.register(agents=[], executor={"type": "procedural", "command": "other"}) != first


async def test_an_online_identity_is_refused_whatever_its_tags() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        answer = await coordinator.http.post("/runner/register", json=registration(tags=["other"]))
        assert answer.status_code == 409
        detail = answer.json()["detail"]
        assert detail.pop("message")
        assert detail == {
            "error": "duplicate_runner",
            "runner_id": runner_id,
            "hostname": "host",
            "project_dir": "/work",
            "executor_profile": "echo",
        }


async def test_runs_that_wait_for_the_owner_of_an_agent_go_to_its_next_owner() -> None:
    async with embedded_coordinator() as coordinator:
        gone = await coordinator.register()
        waiting = await coordinator.submit()
        assert (await coordinator.http.delete(f"/runners/{gone}", params={"self": "true"})).status_code == 200
        stranger = await coordinator.register(hostname="stranger", agents=[])
        poll = await coordinator.held_poll(stranger)
        heir = await coordinator.register(hostname="heir")
        assert (await coordinator.claim(heir))["run_id"] == waiting["run_id"]
        assert not poll.done()
        poll.cancel()


async def test_an_agent_name_of_another_runner_is_refused_and_changes_nothing() -> None:
    async with embedded_coordinator() as coordinator:
        owner = await coordinator.register()
        changed = registration(hostname="other", agents=[{**ECHO_AGENT, "description": "Another one."}])
        answer = await coordinator.http.post("/runner/register", json=changed)
        assert answer.status_code == 409
        detail = answer.json()["detail"]
        assert (detail["error"], detail["agent_name"]) == ("agent_name_collision", "echo")
        assert detail["existing_runner_id"] == owner
        assert len((await coordinator.http.get("/runners")).json()["runners"]) == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ["body", "hostname"]),
        (registration(hostname=1), ["body", "hostname"]),
        (registration(executor={"type": "procedural"}), ["body", "executor", "command"]),
        (registration(tags="a"), ["body", "tags"]),
        (registration(agents=[{"description": "x"}]), ["body", "agents", 0, "name"]),
    ],
)
async def test_an_invalid_registration_names_the_field(body: dict[str, Any], place: list[Any]) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.post("/runner/register", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == place


async def test_nulls_in_a_registration_count_as_absent() -> None:
    async with embedded_coordinator() as coordinator:
        agent = {**ECHO_AGENT, "output_schema": None, "tags": None, "description": None}
        executor = {"type": "procedural", "command": "x", "config": None, "lifecycle": None}
        await coordinator.register(tags=None, require_matching_tags=None, agents=[agent], executor=executor)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_not_a_json_object_is_422(body: bytes) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.post("/runner/heartbeat", content=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body"]


async def test_a_poll_with_nothing_to_report_is_an_empty_204_when_its_time_is_over() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        answer = await coordinator.poll(await coordinator.register())
        assert (answer.status_code, answer.content) == (204, b"")


async def test_a_poll_without_runner_id_is_422() -> None:
    async with embedded_coordinator() as coordinator:
        assert (await coordinator.http.get("/runner/runs")).status_code == 422


async def test_every_call_of_an_unregistered_runner_is_a_401() -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt()
        answers = [
            await coordinator.poll("rnr_unknown"),
            await coordinator.http.post("/runner/heartbeat", json={"runner_id": "rnr_unknown"}),
            await coordinator.report(run, "started", "rnr_unknown"),
            await coordinator.report(run, "completed", "rnr_unknown"),
            await coordinator.report(run, "failed", "rnr_unknown", error="x"),
            await coordinator.report(run, "stopped", "rnr_unknown", signal="SIGTERM"),
            await coordinator.http.post(
                f"/runner/sessions/{run['session_id']}/status", json={"runner_id": "rnr_unknown", "status": "failed"}
            ),
        ]
        assert {(answer.status_code, answer.text) for answer in answers} == {
            (401, '{"detail":"Runner not registered"}')
        }
        assert (await coordinator.http.delete("/runners/rnr_unknown?self=true")).status_code == 404


async def test_reports_change_the_run_and_its_session() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        assert run["status"] == "claimed"
        assert run["resolved_agent_blueprint"] == ECHO_AGENT
        answer = await coordinator.report(run, "started", runner_id)
        assert (answer.status_code, answer.json()) == (200, {"ok": True})
        assert (await coordinator.run_status(run), (await coordinator.session(run))["status"]) == ("running", "running")
        await coordinator.report(run, "completed", runner_id, status="success", session_status="idle")
        assert (await coordinator.run_status(run), (await coordinator.session(run))["status"]) == ("completed", "idle")
        events = (await coordinator.http.get(f"/sessions/{run['session_id']}/events")).json()["events"]
        assert [event["event_type"] for event in events] == ["run_start", "run_completed"]


async def test_a_completed_report_without_session_status_finishes_the_session() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "completed", runner_id, status="success")
        assert (await coordinator.session(run))["status"] == "finished"


async def test_a_failure_keeps_its_error_and_a_stop_its_signal() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        await coordinator.report(run, "failed", runner_id, error="out of luck")
        shown = (await coordinator.http.get(f"/runs/{run['run_id']}")).json()
        assert (shown["status"], shown["error"], shown["runner_id"]) == ("failed", "out of luck", runner_id)
        await coordinator.report(run, "stopped", runner_id, signal="SIGKILL")
        events = (await coordinator.http.get(f"/sessions/{run['session_id']}/events")).json()["events"]
        assert [(event["status"], event.get("error"), event.get("signal")) for event in events] == [
            ("failed", "out of luck", None),
            ("stopped", None, "SIGKILL"),
        ]


async def test_there_is_no_state_machine_and_no_owner_of_a_run_that_has_ended() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id, other = await coordinator.register(), await coordinator.register(hostname="other", agents=[])
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        refused = await coordinator.report(run, "completed", other)
        assert (refused.status_code, refused.json()["detail"]["error"]) == (409, "run_reassigned")
        await coordinator.report(run, "completed", runner_id)
        for kind, fields, status in [
            ("completed", {}, "completed"),
            ("completed", {}, "completed"),
            ("failed", {"error": "x"}, "failed"),
            ("completed", {}, "completed"),
            ("started", {}, "running"),
        ]:
            assert (await coordinator.report(run, kind, other, **fields)).status_code == 200
            assert await coordinator.run_status(run) == status


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("started", {}), ("completed", {}), ("failed", {"error": "x"}), ("stopped", {"signal": "SIGTERM"})],
)
async def test_a_report_for_an_unknown_run_is_404(kind: str, fields: dict[str, str]) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.report({"run_id": "run_unknown"}, kind, await coordinator.register(), **fields)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Run not found"})


async def test_the_end_of_a_persistent_executor_between_turns_is_accepted() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        run = await coordinator.submit()

        async def report(session_id: str, status: str) -> int:
            body = {"runner_id": runner_id, "status": status}
            return (await coordinator.http.post(f"/runner/sessions/{session_id}/status", json=body)).status_code

        for status in ("finished", "failed", "stopped"):
            assert await report(run["session_id"], status) == 200
            assert (await coordinator.session(run))["status"] == status
        assert await report(run["session_id"], "running") == 400
        assert await report("ses_unknown", "failed") == 404


async def test_a_runner_is_stale_after_its_time_and_removed_after_a_longer_one() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)

        async def listed() -> list[str]:
            return [runner["status"] for runner in (await coordinator.http.get("/runners")).json()["runners"]]

        clock.now_s += 119
        assert await listed() == ["online"]
        clock.now_s += 2
        assert await listed() == ["stale"]
        assert await coordinator.run_status(run) == "claimed"
        clock.now_s += 480
        assert await listed() == []
        assert await coordinator.run_status(run) == "failed"
        assert (await coordinator.http.get("/agents")).json() == []
        assert (await coordinator.poll(runner_id)).status_code == 401


async def test_polling_is_no_heartbeat() -> None:
    clock = Clock()
    async with embedded_coordinator(SHORT_POLL, clock=clock) as coordinator:
        runner_id = await coordinator.register()
        clock.now_s += 121
        assert (await coordinator.poll(runner_id)).status_code == 204
        assert (await coordinator.http.get("/runners")).json()["runners"][0]["status"] == "stale"


async def test_a_stale_runner_that_sends_a_heartbeat_stays_stale_until_it_registers() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        clock.now_s += 121
        assert (await coordinator.http.post("/runner/heartbeat", json={"runner_id": runner_id})).status_code == 200
        assert (await coordinator.http.get("/runners")).json()["runners"][0]["status"] == "stale"
        assert await coordinator.register() == runner_id
        assert (await coordinator.http.get("/runners")).json()["runners"][0]["status"] == "online"
        assert await coordinator.run_status(run) == "claimed"


async def test_a_runner_that_leaves_fails_its_open_runs_and_finishes_its_idle_sessions() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        runner_id, other = await coordinator.register(), await coordinator.register(hostname="other", **autonomous())
        idle, claimed, done = [await coordinator.submit() for _ in range(3)]
        for run in (idle, claimed, done):
            assert (await coordinator.claim(runner_id))["run_id"] == run["run_id"]
        await coordinator.report(idle, "completed", runner_id, session_status="idle")
        await coordinator.report(done, "completed", runner_id)
        theirs = await coordinator.prompt()
        await coordinator.claim(other)
        assert (await coordinator.http.delete(f"/runners/{runner_id}?self=true")).status_code == 200
        assert [await coordinator.run_status(run) for run in (idle, claimed, done, theirs)] == [
            "completed",
            "failed",
            "completed",
            "claimed",
        ]
        assert [(await coordinator.session(run))["status"] for run in (idle, claimed, done)] == [
            "finished",
            "failed",
            "finished",
        ]
        assert (await coordinator.http.get("/agents/echo")).status_code == 404
        assert (await coordinator.http.delete(f"/runners/{runner_id}?self=true")).status_code == 404
        assert (await coordinator.poll(runner_id)).status_code == 401


async def test_scripts_are_synced_after_registration_and_downloaded(tmp_path: Path) -> None:
    folder = tmp_path / "greet"
    folder.mkdir()
    (folder / "script.json").write_text('{"script_file": "greet.py"}')
    (folder / "greet.py").write_text("print('hi')\n")
    async with embedded_coordinator(SHORT_POLL, scripts_dir=tmp_path) as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        assert (await coordinator.poll(runner_id)).json() == {"sync_scripts": ["greet"], "remove_scripts": []}
        assert "run" in (await coordinator.poll(runner_id)).json()
        answer = await coordinator.http.get("/scripts/greet/download")
        with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:gz") as tar:
            assert {member.name: member.mode for member in tar} == {
                "greet/script.json": 0o644,
                "greet/greet.py": 0o755,
            }
        assert answer.content == (await coordinator.http.get("/scripts/greet/download")).content
        assert (await coordinator.http.get("/scripts/other/download")).status_code == 404
        assert (await coordinator.http.get("/scripts/..%2Fgreet/download")).status_code == 404
