"""The queue over HTTP: who is woken, and what a run may demand of the queue (docs/queue.md)."""

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fsm_runner.coordinator_server.errors import Unavailable
from fsm_runner.coordinator_server.store.interface import ClaimedRun, DemandClass
from tests.support.embedded import (
    ECHO_AGENT,
    HELD_FOR_LONG,
    EmbeddedCoordinator,
    autonomous,
    embedded_coordinator,
    registration,
)
from tests.support.watch import PATIENCE_S

FAST_TICKS = msgspec.structs.replace(HELD_FOR_LONG, tick_interval_s=0.01)


class Claims:
    """Counts the times that the database looks for a run."""

    def __init__(self, coordinator: EmbeddedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._claim = coordinator.inside.store.claim
        monkeypatch.setattr(coordinator.inside.store, "claim", self)

    async def __call__(self, *values: Any) -> ClaimedRun | None:
        self.count += 1
        return await self._claim(*values)


async def runners(coordinator: EmbeddedCoordinator, names: Iterable[str], **overrides: Any) -> list[str]:
    return [await coordinator.register(**autonomous(hostname=name, **overrides)) for name in names]


async def held_polls(coordinator: EmbeddedCoordinator, runner_ids: list[str]) -> list[asyncio.Task[httpx.Response]]:
    return [await coordinator.held_poll(runner_id) for runner_id in runner_ids]


async def run_of(poll: asyncio.Task[httpx.Response]) -> str:
    async with asyncio.timeout(PATIENCE_S):
        run_id: str = (await poll).json()["run"]["run_id"]
        return run_id


async def until_status(coordinator: EmbeddedCoordinator, run: dict[str, Any], status: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await coordinator.run_status(run) != status:  # noqa: ASYNC110 - the test asks as a client does
            await asyncio.sleep(0.01)


async def until_deleted(coordinator: EmbeddedCoordinator, run: dict[str, Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await coordinator.http.get(f"/runs/{run['run_id']}")).status_code != 404:  # noqa: ASYNC110 - as a client
            await asyncio.sleep(0.01)


def from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def cancel(polls: Iterable[asyncio.Task[httpx.Response]]) -> None:
    for poll in polls:
        poll.cancel()


async def test_each_new_run_wakes_the_poll_of_the_runner_that_was_served_least_recently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded_coordinator() as coordinator:
        claims = Claims(coordinator, monkeypatch)
        known = await runners(coordinator, "abc")
        polls = dict(zip(known, await held_polls(coordinator, known), strict=True))
        for runner_id in [*known, *known[:2]]:
            run = await coordinator.prompt()
            assert await run_of(polls[runner_id]) == run["run_id"]
            assert not any(poll.done() for other, poll in polls.items() if other != runner_id)
            polls[runner_id] = await coordinator.held_poll(runner_id)
        assert claims.count == 5
        cancel(polls.values())


async def test_a_hundred_idle_runners_that_may_not_claim_a_run_do_not_ask_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with embedded_coordinator() as coordinator:
        claims = Claims(coordinator, monkeypatch)
        idle = await runners(coordinator, map(str, range(100)), executor_profile="other")
        (active,) = await runners(coordinator, ["active"])
        polls = await held_polls(coordinator, idle)
        for _ in range(3):
            run = await coordinator.prompt(additional_demands={"executor_profile": "echo"})
            assert (await coordinator.claim(active))["run_id"] == run["run_id"]
        assert claims.count == 3
        assert not any(poll.done() for poll in polls)
        cancel(polls)


async def test_a_poll_that_disconnects_after_it_was_woken_passes_the_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_coordinator() as coordinator:
        claims = Claims(coordinator, monkeypatch)
        known = await runners(coordinator, "ab")
        first, second = await held_polls(coordinator, known)
        woken = coordinator.inside.registry.get(known[0])
        assert woken is not None
        async with woken.claim_lock:
            run = await coordinator.prompt()
            first.cancel()
            await asyncio.wait([first])
            assert not second.done()
        assert await run_of(second) == run["run_id"]
        assert claims.count == 2


async def test_a_woken_poll_that_reports_a_stop_passes_the_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_coordinator() as coordinator:
        known = await runners(coordinator, "ab")
        polls = await held_polls(coordinator, known)
        queue, registry = coordinator.inside.queue, coordinator.inside.registry
        add = queue.add

        def add_with_a_stop(class_id: int, demand_class: DemandClass) -> None:
            """The woken poll finds the run and a stop."""
            add(class_id, demand_class)
            registry.queue_stop(known[0], "ses_1")

        monkeypatch.setattr(queue, "add", add_with_a_stop)
        run = await coordinator.prompt()
        async with asyncio.timeout(PATIENCE_S):
            assert (await polls[0]).json() == {"stop_sessions": ["ses_1"]}
        assert await run_of(polls[1]) == run["run_id"]


async def test_a_failure_of_the_database_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_coordinator(FAST_TICKS) as coordinator:
        known = await runners(coordinator, "ab")
        polls = await held_polls(coordinator, known)
        store = coordinator.inside.store
        claim, failures = store.claim, 1

        async def fails_once(*values: Any) -> ClaimedRun | None:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("the database cannot be used")
            return await claim(*values)

        monkeypatch.setattr(store, "claim", fails_once)
        run = await coordinator.prompt()
        async with asyncio.timeout(PATIENCE_S):
            assert (await polls[0]).status_code == 503
        assert await run_of(polls[1]) == run["run_id"]


async def test_runs_submitted_at_once_wake_as_many_polls() -> None:
    async with embedded_coordinator() as coordinator:
        known = await runners(coordinator, "abc")
        polls = await held_polls(coordinator, known)
        runs = await asyncio.gather(*(coordinator.prompt() for _ in range(5)))
        claimed = [await run_of(poll) for poll in polls]
        claimed += [(await coordinator.claim(runner_id))["run_id"] for runner_id in known[:2]]
        assert sorted(claimed) == sorted(run["run_id"] for run in runs)


async def test_the_runs_of_an_earlier_process_are_claimed(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    async with embedded_coordinator(database=file) as coordinator:
        run = await coordinator.prompt()
    async with embedded_coordinator(database=file) as coordinator:
        (runner_id,) = await runners(coordinator, "a")
        assert (await coordinator.claim(runner_id))["run_id"] == run["run_id"]


async def test_runners_that_bring_the_same_agent_share_its_runs() -> None:
    async with embedded_coordinator() as coordinator:
        replicas = [await coordinator.register(hostname=name) for name in ("one", "two")]
        stranger = await coordinator.register(hostname="stranger", agents=[])
        (listed,) = (await coordinator.http.get("/agents")).json()
        assert (listed["runner_id"], listed["runner_ids"]) == (replicas[0], replicas)
        idle, *polls = await held_polls(coordinator, [stranger, *replicas])
        runs = [await coordinator.submit() for _ in range(2)]
        assert [await run_of(poll) for poll in polls] == [run["run_id"] for run in runs]
        await coordinator.http.delete(f"/runners/{replicas[0]}?self=true")
        run = await coordinator.submit()
        assert (await coordinator.claim(replicas[1]))["run_id"] == run["run_id"]
        assert not idle.done()
        idle.cancel()
        other = registration(hostname="other", executor_profile="another")
        answer = await coordinator.http.post("/runner/register", json=other)
        assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "agent_name_collision")


async def test_the_response_repeats_the_options_and_the_run_shows_them() -> None:
    async with embedded_coordinator() as coordinator:
        options = {"priority": -10, "queue_ttl_seconds": 3600.5, "idempotency_key": "k" * 200}
        run = await coordinator.prompt(**options, not_before="2026-03-01T16:00:00+01:00")
        expected = {**options, "not_before": "2026-03-01T15:00:00.000000Z"}
        assert {name: run[name] for name in expected} == expected
        listed = (await coordinator.http.get("/runs")).json()["runs"][0]
        assert {name: listed[name] for name in expected} == expected
        assert (await coordinator.prompt()).keys() == {"run_id", "session_id", "status"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("priority", value) for value in (-11, 11, 1.5, "1", True)),
        *(("not_before", value) for value in ("2026-03-01T15:00:00", "tomorrow", 5, "0001-01-01T00:00:00+01:00")),
        *(("queue_ttl_seconds", value) for value in (0, -1, "1")),
        *(("idempotency_key", value) for value in ("", "k" * 201, 5)),
    ],
)
async def test_an_invalid_option_names_the_field(field: str, value: Any) -> None:
    async with embedded_coordinator() as coordinator:
        body = {"type": "start_session", "parameters": {"prompt": "hi"}, field: value}
        answer = await coordinator.http.post("/runs", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_a_request_with_a_known_key_starts_nothing_even_without_its_agent() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register()
        run = await coordinator.submit(idempotency_key="k", session_id="ses_chosen")
        assert await coordinator.submit(idempotency_key="k", session_id="ses_chosen") == run
        await coordinator.claim(runner_id)
        await coordinator.http.delete(f"/runners/{runner_id}?self=true")
        again = await coordinator.submit(session_id="ses_chosen", idempotency_key="k")
        assert again == {**run, "status": "failed"}
        body = {"type": "start_session", "parameters": {"prompt": "hi"}, "idempotency_key": "k"}
        answer = await coordinator.http.post("/runs", json=body)
        assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "idempotency_conflict")
        assert len((await coordinator.http.get("/runs")).json()["runs"]) == 1


async def test_a_run_of_a_higher_priority_overtakes() -> None:
    async with embedded_coordinator() as coordinator:
        runs = [await coordinator.prompt(priority=priority) for priority in (-1, 0, 1)]
        (runner_id,) = await runners(coordinator, "a")
        claimed = [(await coordinator.claim(runner_id))["run_id"] for _ in runs]
        assert claimed == [run["run_id"] for run in reversed(runs)]


async def test_a_run_wakes_a_poll_when_its_time_has_come() -> None:
    async with embedded_coordinator(FAST_TICKS) as coordinator:
        (runner_id,) = await runners(coordinator, "a")
        poll = await coordinator.held_poll(runner_id)
        later = await coordinator.prompt(not_before=from_now(3600))
        run = await coordinator.prompt(not_before=from_now(0.1))
        assert await run_of(poll) == run["run_id"]
        shown = (await coordinator.http.get(f"/runs/{run['run_id']}")).json()
        assert shown["claimed_at"] >= run["not_before"]
        assert await coordinator.run_status(later) == "pending"


async def test_a_run_that_waits_too_long_fails() -> None:
    async with embedded_coordinator(FAST_TICKS) as coordinator:
        run = await coordinator.prompt(queue_ttl_seconds=0.001)
        forever = await coordinator.prompt(queue_ttl_seconds=1e300)
        await until_status(coordinator, run, "failed")
        shown = (await coordinator.http.get(f"/runs/{run['run_id']}")).json()
        assert shown["error"].startswith("expired")
        assert (await coordinator.session(run))["status"] == "failed"
        assert await coordinator.run_status(forever) == "pending"


@pytest.mark.parametrize("ended_by", ["report", "deregistration"])
async def test_max_running_holds_a_run_back_until_another_ends(ended_by: str, tmp_path: Path) -> None:
    (tmp_path / "single.json").write_text(json.dumps({**ECHO_AGENT, "name": "single", "max_running": 1}))
    async with embedded_coordinator(agents_dir=tmp_path) as coordinator:
        one, two = [await coordinator.register(hostname=name, agents=[]) for name in ("one", "two")]
        runs = [await coordinator.submit(agent_name="single") for _ in range(2)]
        run = await coordinator.claim(one)
        assert run["run_id"] == runs[0]["run_id"]
        polls = await held_polls(coordinator, [one, two])
        other = await coordinator.prompt()  # it is for none of them
        assert await coordinator.run_status(runs[1]) == "pending"
        if ended_by == "report":
            await coordinator.report(run, "completed", one)
            claimed, idle = await asyncio.wait(polls, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert len(claimed) == 1
            assert await run_of(claimed.pop()) == runs[1]["run_id"]
            cancel(idle)
        else:
            await coordinator.http.delete(f"/runners/{one}?self=true")
            assert await run_of(polls[1]) == runs[1]["run_id"]
        assert await coordinator.run_status(other) == "pending"


async def test_the_queue_is_counted_by_profile_and_tags() -> None:
    async with embedded_coordinator() as coordinator:
        (runner_id,) = await runners(coordinator, "a", tags=["gpu"])
        for _ in range(3):
            await coordinator.prompt(additional_demands={"executor_profile": "echo", "tags": ["gpu"]})
        await coordinator.prompt()
        await coordinator.prompt(not_before=from_now(3600))
        await coordinator.report(await coordinator.claim(runner_id), "started", runner_id)
        await coordinator.claim(runner_id)
        plain: dict[str, Any] = {
            "executor_profile": None,
            "agent_name": None,
            "tags": [],
            "pending": 1,
            "claimed": 0,
            "running": 0,
            "wanted": 1,
        }
        demanding = {**plain, "executor_profile": "echo", "tags": ["gpu"], "claimed": 1, "running": 1, "wanted": 3}
        assert (await coordinator.http.get("/queue")).json() == {"queue": [plain, demanding]}


async def test_a_sessions_runs_are_deleted_when_they_are_kept_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = msgspec.structs.replace(HELD_FOR_LONG, retention_interval_s=0.01)
    async with embedded_coordinator(timings, keep_runs_s=0.0) as coordinator:
        prune, failures = coordinator.inside.store.prune, 1

        async def broken_once(keep_s: float, most: int) -> int:
            nonlocal failures
            if failures:
                failures -= 1
                raise RuntimeError("a defect")
            return await prune(keep_s, most)

        monkeypatch.setattr(coordinator.inside.store, "prune", broken_once)
        runner_id = await coordinator.register()
        ended, idle = await coordinator.submit(), await coordinator.submit()
        for status in ("finished", "idle"):
            await coordinator.report(await coordinator.claim(runner_id), "completed", runner_id, session_status=status)
        await until_deleted(coordinator, ended)
        assert await coordinator.run_status(idle) == "completed"
    assert failures == 0


async def test_a_coordinator_deletes_what_is_kept_no_longer_at_its_start(tmp_path: Path) -> None:
    timings = msgspec.structs.replace(HELD_FOR_LONG, retention_interval_s=10 * PATIENCE_S)
    async with embedded_coordinator(timings, database=tmp_path / "runs.sqlite") as coordinator:
        runner_id = await coordinator.register()
        ended = await coordinator.submit()
        await coordinator.report(await coordinator.claim(runner_id), "completed", runner_id)
    async with embedded_coordinator(timings, database=tmp_path / "runs.sqlite", keep_runs_s=0.0) as coordinator:
        await until_deleted(coordinator, ended)
