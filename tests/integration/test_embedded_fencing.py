"""Runs and identities that another runner or process has by now: protocol.md, section 1.1."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.polling import PollResponse
from fsm_runner.coordinator_server.registry import Presence, WaitingPoll
from fsm_runner.coordinator_server.store.interface import ClaimedRun
from tests.support.embedded import (
    ECHO_AGENT,
    Clock,
    EmbeddedCoordinator,
    FencedRunner,
    autonomous,
    embedded_coordinator,
    fenced_runner,
    registration,
)
from tests.support.watch import PATIENCE_S

STALE_S, REMOVED_S = 121, 601


def refusal(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()["detail"]["error"]


@asynccontextmanager
async def coordinator_with_agents(folder: Path, clock: Clock) -> AsyncIterator[EmbeddedCoordinator]:
    """Two agents that any runner can execute; the runs of `again` are queued again if they are lost."""
    for name, fields in {"again": {"retry_lost": 1}, "once": {}}.items():
        (folder / f"{name}.json").write_text(json.dumps({**ECHO_AGENT, "name": name, **fields}))
    async with embedded_coordinator(clock=clock, agents_dir=folder) as coordinator:
        yield coordinator


async def lost_run(coordinator: EmbeddedCoordinator, clock: Clock, agent: str) -> tuple[FencedRunner, dict[str, Any]]:
    """Return a removed runner, and the run that it had started."""
    runner = await fenced_runner(coordinator, hostname="lost", agents=[])
    await coordinator.submit(agent_name=agent)
    run = await runner.claim()
    assert (await runner.report(run, "started")).status_code == 200
    clock.now_s += REMOVED_S
    assert (await coordinator.http.get("/runners")).json() == {"runners": []}
    return runner, run


async def test_each_call_of_a_superseded_process_is_refused() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        former = await fenced_runner(coordinator)
        await coordinator.submit()
        run = await former.claim()
        clock.now_s += STALE_S
        present = await fenced_runner(coordinator)
        assert present.runner_id == former.runner_id
        assert present.registration > former.registration
        answers = [
            await former.poll(),
            await former.heartbeat(),
            *await former.writes(run),
            *[
                await former.report(run, kind, **fields)
                for kind, fields in {
                    "started": {},
                    "completed": {},
                    "failed": {"error": "x"},
                    "stopped": {"signal": "SIGTERM"},
                }.items()
            ],
            await coordinator.http.delete(f"/runners/{former.runner_id}?self=true", headers=former.headers()),
        ]
        assert [refusal(answer) for answer in answers] == [(409, "registration_superseded")] * len(answers)
        assert await coordinator.run_status(run) == "claimed"
        # The present process has the runs of the former one.
        assert (await present.report(run, "started")).status_code == 200
        assert [answer.status_code for answer in await present.writes(run)] == [200, 201, 200]
        assert (await present.report(run, "completed")).status_code == 200


async def test_a_process_is_superseded_also_if_the_coordinator_has_lost_its_data_since() -> None:
    async with embedded_coordinator() as coordinator:
        former = await fenced_runner(coordinator)
    async with embedded_coordinator() as restarted:
        present = await fenced_runner(restarted)
        assert present.runner_id == former.runner_id
        former.coordinator = restarted
        for answer in (await former.heartbeat(), await former.poll()):
            assert refusal(answer) == (409, "registration_superseded")


async def test_a_registration_ends_the_held_poll_of_the_former_process_and_that_claims_nothing() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        former = await fenced_runner(coordinator)
        unfenced = await coordinator.held_poll(former.runner_id)
        poll = asyncio.create_task(former.poll())
        await coordinator.until_held(former.runner_id, 2)
        clock.now_s += STALE_S
        present = await fenced_runner(coordinator)
        async with asyncio.timeout(PATIENCE_S):
            assert refusal(await poll) == (409, "registration_superseded")
        assert not unfenced.done()
        unfenced.cancel()
        await coordinator.until_nothing_is_held(present.runner_id)
        run = await coordinator.submit()
        assert (await present.claim())["run_id"] == run["run_id"]


async def test_a_process_may_register_again_at_any_time_also_if_the_response_was_lost() -> None:
    async with embedded_coordinator() as coordinator:
        runner = await fenced_runner(coordinator)

        async def register(number: int | None) -> httpx.Response:
            headers = {} if number is None else {"X-Runner-Registration": str(number)}
            return await coordinator.http.post("/runner/register", json=registration(), headers=headers)

        lost, again = [(await register(runner.registration)).json()["registration"] for _ in range(2)]
        assert runner.registration < lost < again
        assert refusal(await runner.heartbeat()) == (409, "registration_superseded")
        for other in (None, lost, again + 1):
            assert refusal(await register(other)) == (409, "duplicate_runner")
        assert (await register(again)).status_code == 200


@pytest.mark.parametrize("header", ["X-Runner-Registration", "X-Run-Attempt"])
@pytest.mark.parametrize("number", ["-1", "1.0", "x", "", "9" * 19])
async def test_a_header_that_is_no_number_is_422(header: str, number: str) -> None:
    async with embedded_coordinator() as coordinator:
        run = await coordinator.prompt()
        for path in (f"/runner/runs/{run['run_id']}/started", f"/sessions/{run['session_id']}/bind"):
            body = {"runner_id": "x", "executor_session_id": "x", "hostname": "x", "executor_profile": "x"}
            answer = await coordinator.http.post(path, json=body, headers={header: number})
            assert answer.status_code == 422
            assert answer.json()["detail"][0]["loc"] == ["header", header]


async def test_a_lost_run_is_queued_again_and_its_former_runner_is_refused_and_told_to_stop(tmp_path: Path) -> None:
    clock = Clock()
    async with coordinator_with_agents(tmp_path, clock) as coordinator:
        former, run = await lost_run(coordinator, clock, "again")
        waiting = (await coordinator.http.get(f"/runs/{run['run_id']}")).json()
        assert (waiting["status"], waiting["attempt"], waiting["runner_id"]) == ("pending", 2, None)
        assert (await coordinator.session(run))["status"] == "pending"

        heir = await fenced_runner(coordinator, hostname="heir", agents=[])
        again = await heir.claim()
        assert (again["run_id"], again["session_id"], again["attempt"]) == (run["run_id"], run["session_id"], 2)

        returned = await fenced_runner(coordinator, hostname="lost", agents=[])
        assert returned.runner_id == former.runner_id
        answers = [await returned.report(run, "completed"), *await returned.writes(run)]
        assert [refusal(answer) for answer in answers] == [(409, "run_reassigned")] * 4
        detail = answers[0].json()["detail"]
        assert (detail["run_id"], detail["attempt"]) == (run["run_id"], 2)
        assert (await returned.poll()).json() == {"stop_sessions": [run["session_id"]]}

        assert [answer.status_code for answer in await heir.writes(again)] == [200, 201, 200]
        assert (await heir.report(again, "completed")).status_code == 200
        assert await coordinator.run_status(run) == "completed"


async def test_an_earlier_attempt_is_refused_if_the_same_runner_has_the_later_one(tmp_path: Path) -> None:
    clock = Clock()
    async with coordinator_with_agents(tmp_path, clock) as coordinator:
        _, run = await lost_run(coordinator, clock, "again")
        returned = await fenced_runner(coordinator, hostname="lost", agents=[])
        assert (await returned.poll()).json() == {"stop_sessions": [run["session_id"]]}
        again = await returned.claim()
        assert (again["run_id"], again["attempt"]) == (run["run_id"], 2)
        answers = [await returned.report(run, "completed"), *await returned.writes(run)]
        assert [refusal(answer) for answer in answers] == [(409, "run_reassigned")] * 4
        assert [answer.status_code for answer in await returned.writes(again)] == [200, 201, 200]
        assert (await returned.report(again, "completed")).status_code == 200


async def test_a_lost_run_wakes_a_poll(tmp_path: Path) -> None:
    clock = Clock()
    async with coordinator_with_agents(tmp_path, clock) as coordinator:
        lost = await fenced_runner(coordinator, hostname="lost", agents=[])
        await coordinator.submit(agent_name="again")
        run = await lost.claim()
        clock.now_s += REMOVED_S / 2
        heir = await coordinator.register(hostname="heir", agents=[])
        poll = await coordinator.held_poll(heir)
        clock.now_s += REMOVED_S / 2
        await coordinator.http.get("/runners")
        async with asyncio.timeout(PATIENCE_S):
            assert (await poll).json()["run"]["run_id"] == run["run_id"]


async def test_the_runs_of_a_runner_that_a_client_has_deregistered_fail_and_their_late_end_counts(
    tmp_path: Path,
) -> None:
    async with coordinator_with_agents(tmp_path, Clock()) as coordinator:
        runner = await fenced_runner(coordinator, agents=[])
        await coordinator.submit(agent_name="again")
        run = await runner.claim()
        assert (await runner.report(run, "started")).status_code == 200
        await coordinator.http.delete(f"/runners/{runner.runner_id}")
        assert (await runner.poll()).json() == {"deregistered": True}
        # It executes them during its grace period, so no other runner may get them.
        assert await coordinator.run_status(run) == "failed"
        returned = await fenced_runner(coordinator, agents=[])
        assert (await returned.report(run, "completed")).status_code == 200
        assert await coordinator.run_status(run) == "completed"


async def test_a_runner_that_deregisters_itself_has_lost_its_runs(tmp_path: Path) -> None:
    async with coordinator_with_agents(tmp_path, Clock()) as coordinator:
        runner = await fenced_runner(coordinator, agents=[])
        await coordinator.submit(agent_name="again")
        run = await runner.claim()
        await coordinator.http.delete(f"/runners/{runner.runner_id}?self=true", headers=runner.headers())
        assert await coordinator.run_status(run) == "pending"


async def test_a_run_without_a_retry_fails_and_its_late_end_counts(tmp_path: Path) -> None:
    clock = Clock()
    async with coordinator_with_agents(tmp_path, clock) as coordinator:
        _, run = await lost_run(coordinator, clock, "once")
        assert await coordinator.run_status(run) == "failed"
        returned = await fenced_runner(coordinator, hostname="lost", agents=[])
        for _ in range(2):
            assert (await returned.report(run, "completed")).status_code == 200
            assert await coordinator.run_status(run) == "completed"
        assert (await returned.report(run, "started")).status_code == 200
        assert await coordinator.run_status(run) == "completed"


async def test_the_end_of_an_executor_does_not_end_a_session_that_another_runner_has_resumed() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        former = await fenced_runner(coordinator, **autonomous(project_dir="/one"))
        await coordinator.prompt()
        run = await former.claim()
        assert (await former.report(run, "completed", session_status="idle")).status_code == 200
        clock.now_s += REMOVED_S
        heir = await fenced_runner(coordinator, **autonomous(project_dir="/two"))
        assert (await coordinator.session(run))["status"] == "finished"
        await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        resumed = await heir.claim()
        assert (await heir.report(resumed, "started")).status_code == 200
        returned = await fenced_runner(coordinator, **autonomous(project_dir="/one"))
        body = {"runner_id": returned.runner_id, "status": "failed"}
        for headers in (returned.headers(), {}):
            path = f"/runner/sessions/{run['session_id']}/status"
            assert (await coordinator.http.post(path, json=body, headers=headers)).status_code == 200
            assert (await coordinator.session(run))["status"] == "running"


async def test_a_resume_that_waits_for_a_lost_runner_goes_to_another_one() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        lost = await fenced_runner(coordinator, **autonomous(project_dir="/one"))
        await coordinator.prompt()
        run = await lost.claim()
        assert (await lost.report(run, "completed", session_status="idle")).status_code == 200
        clock.now_s += REMOVED_S / 2
        heir = await coordinator.register(**autonomous(project_dir="/two"))
        poll = await coordinator.held_poll(heir)
        resume = await coordinator.prompt(type="resume_session", session_id=run["session_id"])
        clock.now_s += REMOVED_S / 2
        await coordinator.http.get("/runners")
        async with asyncio.timeout(PATIENCE_S):
            assert (await poll).json()["run"]["run_id"] == resume["run_id"]


async def test_each_resume_of_a_session_waits_for_the_runner_that_has_its_executor() -> None:
    async with embedded_coordinator() as coordinator:
        holder = await fenced_runner(coordinator, **autonomous(project_dir="/one"))
        run = await coordinator.prompt()
        await holder.report(await holder.claim(), "completed", session_status="idle")
        poll = await coordinator.held_poll(await coordinator.register(**autonomous(project_dir="/two")))
        resumes = [await coordinator.prompt(type="resume_session", session_id=run["session_id"]) for _ in range(2)]
        for resume in resumes:
            assert (await holder.claim())["run_id"] == resume["run_id"]
        assert not poll.done()
        poll.cancel()


async def test_a_run_that_was_claimed_without_a_number_is_not_queued_again(tmp_path: Path) -> None:
    clock = Clock()
    async with coordinator_with_agents(tmp_path, clock) as coordinator:
        runner_id = await coordinator.register(agents=[])
        await coordinator.submit(agent_name="again")
        run = await coordinator.claim(runner_id)
        clock.now_s += REMOVED_S
        await coordinator.http.get("/runners")
        assert await coordinator.run_status(run) == "failed"


async def test_a_claim_whose_response_was_not_written_is_in_the_first_poll_of_the_next_registration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:

        async def forgotten(run_id: str) -> None:
            """As if the process had ended before."""

        former = await fenced_runner(coordinator)
        first, second, third = [await coordinator.submit() for _ in range(3)]
        assert (await former.claim())["run_id"] == first["run_id"]
        monkeypatch.setattr(coordinator.inside.store, "note_told", forgotten)
        assert (await former.claim())["run_id"] == second["run_id"]
        monkeypatch.undo()
        # Not with a poll of the same registration.
        assert (await former.claim())["run_id"] == third["run_id"]
        clock.now_s += STALE_S
        present = await fenced_runner(coordinator)
        assert (await present.claim())["run_id"] == second["run_id"]
        poll = asyncio.create_task(present.poll())
        await coordinator.until_held(present.runner_id, 1)
        fourth = await coordinator.submit()
        async with asyncio.timeout(PATIENCE_S):
            assert (await poll).json()["run"]["run_id"] == fourth["run_id"]


async def test_a_claim_whose_connection_ended_with_its_response_is_in_the_next_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded_coordinator() as coordinator:
        polls = coordinator.inside.polls
        note_written = polls.note_written

        async def note_lost(poll: WaitingPoll, response: PollResponse, *, is_lost: bool) -> None:
            assert not is_lost
            await note_written(poll, response, is_lost=True)

        runner = await fenced_runner(coordinator)
        first, second = [await coordinator.submit() for _ in range(2)]
        monkeypatch.setattr(polls, "note_written", note_lost)
        assert (await runner.claim())["run_id"] == first["run_id"]
        monkeypatch.undo()
        assert (await runner.claim())["run_id"] == first["run_id"]
        assert (await runner.claim())["run_id"] == second["run_id"]


async def test_a_claim_that_cannot_be_undone_is_in_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_coordinator() as coordinator:
        runner = await fenced_runner(coordinator)
        await coordinator.submit()
        await runner.claim()  # the first poll looks for such claims anyway
        known, store = coordinator.inside.registry.get(runner.runner_id), coordinator.inside.store
        assert known is not None
        claim = store.claim

        async def then_leave(*values: Any) -> ClaimedRun | None:
            claimed = await claim(*values)
            known.presence = Presence.LEAVING
            return claimed

        async def fails(run_id: str) -> None:
            raise Unavailable("the database cannot be used")

        monkeypatch.setattr(store, "claim", then_leave)
        monkeypatch.setattr(store, "release", fails)
        run = await coordinator.submit()
        assert (await runner.poll()).status_code == 503
        assert await coordinator.run_status(run) == "claimed"
        known.presence = Presence.REGISTERED
        assert (await runner.claim())["run_id"] == run["run_id"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 200), ({"hostname": "elsewhere"}, 409), ({"executor_profile": "other"}, 409)],
)
async def test_a_bind_without_a_number_must_come_from_the_runner_that_has_the_run(
    fields: dict[str, str], status: int
) -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        answer = await coordinator.bind(run, **fields)
        assert answer.status_code == status, answer.text
        if status == 409:
            assert refusal(answer) == (409, "run_reassigned")
        await coordinator.report(run, "completed", runner_id)
        assert (await coordinator.bind(run, **fields)).status_code == 200


async def test_a_bind_with_a_number_that_names_no_run_must_come_from_the_runner_that_has_the_run() -> None:
    async with embedded_coordinator() as coordinator:
        other = await fenced_runner(coordinator, hostname="elsewhere")
        holder = await fenced_runner(coordinator)
        await coordinator.submit()
        run = await holder.claim()
        body = {"executor_session_id": "exe-1", "executor_profile": "echo"}
        for runner, hostname, status in ((other, "elsewhere", 409), (holder, "host", 200)):
            path = f"/sessions/{run['session_id']}/bind"
            fields = {**body, "hostname": hostname}
            answer = await coordinator.http.post(path, json=fields, headers=runner.headers())
            assert answer.status_code == status, answer.text
        assert (await coordinator.session(run))["hostname"] == "host"


async def test_two_registrations_of_one_identity_at_once_give_one_runner() -> None:
    async with embedded_coordinator() as coordinator:
        answers = await asyncio.gather(
            *(coordinator.http.post("/runner/register", json=registration()) for _ in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
