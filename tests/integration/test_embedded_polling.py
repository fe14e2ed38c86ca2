"""What wakes a held poll, and what it must not lose: protocol.md, section 1.1."""

import asyncio

import httpx
import pytest

from fsm_runner.coordinator_server.runners import Runners
from fsm_runner.coordinator_server.timings import Timings
from tests.support.embedded import Clock, EmbeddedCoordinator, autonomous, embedded_coordinator, registration
from tests.support.watch import PATIENCE_S

SHORT_POLL = Timings(poll_timeout_s=0.05)
RUNS = 200


async def answered(poll: asyncio.Task[httpx.Response]) -> httpx.Response:
    async with asyncio.timeout(PATIENCE_S):
        return await poll


async def test_a_new_run_wakes_a_held_poll() -> None:
    async with embedded_coordinator() as coordinator:
        poll = await coordinator.held_poll(await coordinator.register())
        run = await coordinator.submit()
        assert (await answered(poll)).json()["run"]["run_id"] == run["run_id"]


async def test_a_stop_wakes_a_held_poll_and_is_delivered_once() -> None:
    async with embedded_coordinator(Timings(poll_timeout_s=1)) as coordinator:
        runner_id = await coordinator.register()
        await coordinator.submit()
        run = await coordinator.claim(runner_id)
        poll = await coordinator.held_poll(runner_id)
        stopped = (await coordinator.http.post(f"/runs/{run['run_id']}/stop")).json()
        assert stopped["status"] == "stopping"
        assert (await answered(poll)).json() == {"stop_sessions": [run["session_id"]]}
        assert await coordinator.run_status(run) == "stopping"
        assert (await coordinator.poll(runner_id)).status_code == 204


async def test_several_stops_are_delivered_in_one_response() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        runs = [await coordinator.submit() for _ in range(3)]
        for _ in runs:
            await coordinator.claim(runner_id)
        await coordinator.http.post(f"/runs/{runs[0]['run_id']}/stop")
        await coordinator.http.post(f"/sessions/{runs[1]['session_id']}/stop")
        await coordinator.http.post(f"/runs/{runs[2]['run_id']}/stop")
        assert (await coordinator.poll(runner_id)).json() == {"stop_sessions": [run["session_id"] for run in runs]}


async def test_a_pending_run_is_stopped_without_a_runner() -> None:
    async with embedded_coordinator(SHORT_POLL) as coordinator:
        run = await coordinator.prompt()
        assert (await coordinator.http.post(f"/runs/{run['run_id']}/stop")).json()["status"] == "stopped"
        assert (await coordinator.session(run))["status"] == "stopped"
        assert (await coordinator.poll(await coordinator.register(**autonomous()))).status_code == 204


async def test_a_deregistration_ends_the_held_poll_at_once_and_it_claims_nothing() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous())
        poll = await coordinator.held_poll(runner_id)
        leave, run = await asyncio.gather(
            coordinator.http.delete(f"/runners/{runner_id}?self=true"), coordinator.prompt()
        )
        assert leave.status_code == 200
        answer = (await answered(poll)).json()
        # Either the run was claimed, and the deregistration fails it, or it is still pending.
        if answer == {"deregistered": True}:
            assert await coordinator.run_status(run) == "pending"
        else:
            assert await coordinator.run_status(run) == "failed"
        waiting = await coordinator.prompt()
        assert await coordinator.run_status(waiting) == "pending"


async def test_a_deregistration_answers_the_held_poll() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        poll = await coordinator.held_poll(runner_id)
        await coordinator.http.delete(f"/runners/{runner_id}?self=true")
        assert (await answered(poll)).json() == {"deregistered": True}


async def test_a_runner_that_a_client_deregisters_learns_of_it_once() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        run = await coordinator.submit()
        await coordinator.claim(runner_id)
        poll = await coordinator.held_poll(runner_id)
        assert (await coordinator.http.delete(f"/runners/{runner_id}")).json()["initiated_by"] == "external"
        assert (await answered(poll)).json() == {"deregistered": True}
        assert (await coordinator.poll(runner_id)).status_code == 401
        assert await coordinator.run_status(run) == "failed"
        assert (await coordinator.http.get("/agents")).json() == []


async def test_the_held_poll_of_a_removed_runner_is_a_401() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        poll = await coordinator.held_poll(await coordinator.register())
        clock.now_s += 601
        assert (await coordinator.http.get("/runners")).json() == {"runners": []}
        assert (await answered(poll)).status_code == 401


async def test_a_silent_runner_is_removed_without_a_request() -> None:
    clock = Clock()
    async with embedded_coordinator(Timings(sweep_interval_s=0.01), clock=clock) as coordinator:
        poll = await coordinator.held_poll(await coordinator.register())
        clock.now_s += 601
        assert (await answered(poll)).status_code == 401


async def test_a_defect_does_not_end_the_search_for_silent_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    expire, failures = Runners.expire, 1

    async def broken_once(self: Runners) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a defect")
        await expire(self)

    clock = Clock()
    async with embedded_coordinator(Timings(sweep_interval_s=0.01), clock=clock) as coordinator:
        poll = await coordinator.held_poll(await coordinator.register())
        monkeypatch.setattr(Runners, "expire", broken_once)
        clock.now_s += 601
        assert (await answered(poll)).status_code == 401
    assert failures == 0


async def hang_up(coordinator: EmbeddedCoordinator, runner_id: str) -> None:
    poll = await coordinator.held_poll(runner_id)
    poll.cancel()
    await asyncio.wait([poll])


async def test_a_disconnected_poll_claims_nothing() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        await hang_up(coordinator, runner_id)
        await coordinator.until_nothing_is_held(runner_id)
        run = await coordinator.submit()
        assert await coordinator.run_status(run) == "pending"
        assert (await coordinator.claim(runner_id))["run_id"] == run["run_id"]


@pytest.mark.parametrize(("calls_again", "after_s", "status"), [(False, 19, 409), (False, 21, 200), (True, 21, 409)])
async def test_an_identity_is_free_20_s_after_its_poll_was_disconnected(
    calls_again: bool, after_s: float, status: int
) -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        runner_id = await coordinator.register()
        await hang_up(coordinator, runner_id)
        await coordinator.until_nothing_is_held(runner_id)
        if calls_again:
            await coordinator.http.post("/runner/heartbeat", json={"runner_id": runner_id})
        clock.now_s += after_s
        assert (await coordinator.http.post("/runner/register", json=registration())).status_code == status
        listed = (await coordinator.http.get("/runners")).json()["runners"]
        assert [runner["status"] for runner in listed] == ["online"]


async def test_an_identity_is_not_free_while_a_poll_is_held() -> None:
    clock = Clock()
    async with embedded_coordinator(clock=clock) as coordinator:
        runner_id = await coordinator.register()
        await hang_up(coordinator, runner_id)
        await coordinator.until_nothing_is_held(runner_id)
        poll = await coordinator.held_poll(runner_id)
        clock.now_s += 100
        assert (await coordinator.http.post("/runner/register", json=registration())).status_code == 409
        poll.cancel()


async def test_a_disconnected_poll_loses_no_stop() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        run = await coordinator.submit()
        await coordinator.claim(runner_id)
        await hang_up(coordinator, runner_id)
        await coordinator.until_nothing_is_held(runner_id)
        await coordinator.http.post(f"/runs/{run['run_id']}/stop")
        assert (await coordinator.poll(runner_id)).json() == {"stop_sessions": [run["session_id"]]}


async def test_runs_submitted_while_a_poll_disconnects_are_not_lost() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        # So few that no response is in transit: such a response would be lost with any coordinator.
        for turns_before_the_hang_up in (0, 1, 2, 3) * 5:
            poll = await coordinator.held_poll(runner_id)
            submitting = asyncio.create_task(coordinator.submit())
            for _ in range(turns_before_the_hang_up):
                await asyncio.sleep(0)
            poll.cancel()
            await asyncio.wait([poll])
            submitted = await submitting
            claimed = await coordinator.claim(runner_id) if poll.cancelled() else poll.result().json()["run"]
            assert claimed["run_id"] == submitted["run_id"]


async def test_the_claim_of_a_disconnected_poll_is_released() -> None:
    """The client disconnects while the store processes the claim. The run returns to the queue and is claimed later."""
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        poll = await coordinator.held_poll(runner_id)
        runner = coordinator.inside.registry.get(runner_id)
        assert runner is not None
        async with runner.claim_lock:
            run = await coordinator.submit()
            poll.cancel()
            await asyncio.wait([poll])
        await coordinator.until_nothing_is_held(runner_id)
        assert await coordinator.run_status(run) == "pending"
        assert (await coordinator.http.get(f"/runs/{run['run_id']}")).json()["runner_id"] is None
        assert (await coordinator.claim(runner_id))["run_id"] == run["run_id"]


async def test_two_hundred_runs_are_claimed_exactly_once_and_oldest_first() -> None:
    async with embedded_coordinator(Timings(poll_timeout_s=0.5)) as coordinator:
        runners = [await coordinator.register(**autonomous(hostname=f"host-{number}")) for number in range(3)]
        claimed: list[tuple[str, str]] = []

        async def work(runner_id: str) -> None:
            while len(claimed) < RUNS:
                if (answer := await coordinator.poll(runner_id)).status_code == 200:
                    claimed.append((answer.json()["run"]["run_id"], runner_id))

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for runner_id in runners:
                group.create_task(work(runner_id))
            submitting = [group.create_task(coordinator.prompt()) for _ in range(RUNS)]
        submitted = {task.result()["run_id"] for task in submitting}
        assert sorted(run_id for run_id, _ in claimed) == sorted(submitted)
        listed = (await coordinator.http.get("/runs", params={"status": "claimed"})).json()["runs"]
        assert [(run["run_id"], run["runner_id"]) for run in listed] != []
        assert {(run["run_id"], run["runner_id"]) for run in listed} == set(claimed)
        assert [run["claimed_at"] for run in listed] == sorted(run["claimed_at"] for run in listed)
        assert {runner_id for _, runner_id in claimed} == set(runners)


async def test_a_run_that_no_runner_can_take_does_not_block_later_runs() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous())
        await coordinator.prompt(additional_demands={"hostname": "elsewhere"})
        wanted = await coordinator.prompt()
        assert (await coordinator.claim(runner_id))["run_id"] == wanted["run_id"]
