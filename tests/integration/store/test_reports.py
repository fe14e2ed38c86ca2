"""Reports of runners that take no part in fencing, stops, and the sessions that they change."""

import msgspec
import pytest

from fsm_runner.coordinator_server.errors import InvalidRequest, NotFound, RunReassigned
from fsm_runner.coordinator_server.store.interface import Reporter
from tests.support.stores import NO_AUTHOR, StoreUser

ONE, TWO = Reporter(runner_id="one"), Reporter(runner_id="two")


async def test_a_run_starts_and_completes(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed(fenced=False)
    user.now_s += 1
    user.changes.clear()
    await user.store.report_started(run.run_id, ONE)
    assert await user.statuses(run) == ("running", "running")
    assert [change.type for change in user.changes] == ["run_updated", "session_updated", "event"]
    user.now_s += 1
    ended = await user.store.report_completed(run.run_id, ONE, "idle")
    assert (ended.run_id, ended.status, ended.runner_id) == (run.run_id, "completed", "one")
    assert await user.statuses(run) == ("completed", "idle")
    fields = await user.store.run(run.run_id)
    assert (fields["started_at"], fields["completed_at"]) == (user.at(-1), user.at())
    started, completed = await user.events(run.session_id)
    common = {"session_id": run.session_id, "run_id": run.run_id}
    assert started == {"event_type": "run_start", "timestamp": user.at(-1), **common}
    assert completed == {"event_type": "run_completed", "timestamp": user.at(), "status": "completed", **common}


async def test_a_failed_run_has_its_error_and_a_stopped_one_its_signal(user: StoreUser) -> None:
    failed, stopped = await user.submit(), await user.submit()
    for run in (failed, stopped):
        await user.claimed(fenced=False)
        await user.store.report_started(run.run_id, ONE)
    await user.store.report_failed(failed.run_id, ONE, "it \0 broke")
    await user.store.report_stopped(stopped.run_id, ONE, "SIGKILL")
    assert (await user.store.run(failed.run_id))["error"] == "it \0 broke"
    assert (await user.events(failed.session_id))[-1]["error"] == "it \0 broke"
    assert (await user.events(stopped.session_id))[-1]["signal"] == "SIGKILL"
    assert await user.statuses(failed) == ("failed", "failed")
    assert await user.statuses(stopped) == ("stopped", "stopped")


async def test_a_report_of_the_start_of_a_pending_run_makes_its_runner_the_holder(user: StoreUser) -> None:
    new, released = await user.submit(), await user.submit(retry_lost=1)
    await user.claimed("two", class_ids=[released.class_id or 0])
    await user.claimed("two")
    for run in (new, released):
        await user.store.release(run.run_id)
        await user.store.report_started(run.run_id, ONE)
        assert (await user.store.run(run.run_id))["runner_id"] == "one"
    await user.store.stop_run(new.run_id)
    assert await user.store.stopping_sessions("one") == [new.session_id]
    # Its claim by another runner was fenced, this start is not.
    assert (await user.store.close_runner("one", "gone")).requeued_sessions == []
    assert [await user.status(run) for run in (new, released)] == ["failed", "failed"]


async def test_the_end_of_an_executor_does_not_end_a_session_whose_run_another_runner_holds(user: StoreUser) -> None:
    run = await user.submit()
    await user.started("two")
    await user.register("one")
    await user.submit(resumes=run.session_id)  # which waits
    for reporter in (ONE, user.reporter("one")):
        user.changes.clear()
        await user.store.report_session_end(run.session_id, reporter, "failed")
        assert await user.store.session_status(run.session_id) == "running"
        assert user.changes == []
    await user.store.report_completed(run.run_id, TWO, "idle")
    await user.store.report_session_end(run.session_id, ONE, "failed")
    assert await user.store.session_status(run.session_id) == "failed"


async def test_reports_of_an_unknown_run_are_not_found(user: StoreUser) -> None:
    await user.register("one")
    for reporter in (ONE, user.reporter("one")):
        for report in (
            user.store.report_started("run_x", reporter),
            user.store.report_completed("run_x", reporter, "finished"),
            user.store.report_failed("run_x", reporter, "error"),
            user.store.report_stopped("run_x", reporter, "SIGTERM"),
            user.store.report_session_end("ses_x", reporter, "finished"),
        ):
            with pytest.raises(NotFound):
                await report


async def test_a_runner_that_is_not_fenced_may_report_in_any_order(user: StoreUser) -> None:
    run = await user.submit()
    await user.store.report_started(run.run_id, ONE)  # of a claim that was released
    assert await user.status(run) == "running"
    for _ in range(2):
        await user.store.report_completed(run.run_id, ONE, "finished")
    assert len(await user.events(run.session_id)) == 3
    await user.store.report_failed(run.run_id, ONE, "late")
    assert await user.statuses(run) == ("failed", "failed")
    await user.store.report_started(run.run_id, ONE)
    fields = await user.store.run(run.run_id)
    assert (fields["status"], fields["error"], fields["completed_at"]) == ("running", None, None)
    ended = await user.submit()
    await user.claimed("one", fenced=False)
    await user.store.report_completed(ended.run_id, ONE, "finished")
    await user.store.report_failed(ended.run_id, TWO, "of another runner, which is accepted from it too")
    assert await user.status(ended) == "failed"


async def test_a_runner_that_is_not_fenced_cannot_report_about_the_run_of_another(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed("one", fenced=False)
    for report in (
        user.store.report_started(run.run_id, TWO),
        user.store.report_completed(run.run_id, TWO, "finished"),
        user.store.report_failed(run.run_id, TWO, "error"),
        user.store.report_stopped(run.run_id, TWO, "SIGTERM"),
    ):
        with pytest.raises(RunReassigned) as refused:
            await report
        assert isinstance(refused.value.detail, dict)
        assert refused.value.detail.items() >= {"error": "run_reassigned", "run_id": run.run_id, "attempt": 1}.items()
    assert await user.statuses(run) == ("claimed", "pending")
    assert await user.events(run.session_id) == []


async def test_the_limit_of_a_session_is_gone_when_a_run_starts_and_the_workflow_when_it_ends(user: StoreUser) -> None:
    run = await user.submit()
    workflow = b'{"name":"w","state":"s","since":"","visit":1}'
    session = await user.store.update_session(run.session_id, NO_AUTHOR, limit=b'{"kind":"x"}', workflow=workflow)
    assert {"limit", "workflow"} <= set(session)
    await user.started()
    assert {"limit", "workflow"} & set(await user.store.session(run.session_id)) == {"workflow"}
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    assert {"limit", "workflow"}.isdisjoint(await user.store.session(run.session_id))


async def test_a_run_that_is_refused_as_busy_ends_no_turn(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    workflow = b'{"name":"w","state":"s","since":"","visit":1}'
    await user.store.update_session(run.session_id, NO_AUTHOR, workflow=workflow)
    busy, waiting = await user.submit(resumes=run.session_id), await user.submit(resumes=run.session_id)
    await user.claimed()
    await user.store.report_failed(busy.run_id, user.reporter("one"), "the session is busy")
    session = await user.store.session(run.session_id)
    assert session["status"] == "running"
    assert "workflow" in session
    await user.store.report_completed(run.run_id, user.reporter("one"), "idle")
    assert await user.statuses(waiting) == ("pending", "idle")


async def test_the_end_of_an_executor_between_turns_ends_its_session(user: StoreUser) -> None:
    run = await user.submit()
    await user.completed(session_status="idle")
    with pytest.raises(InvalidRequest, match="Invalid session status 'idle'; it is one of: finished, failed, stopped"):
        await user.store.report_session_end(run.session_id, ONE, "idle")
    await user.store.report_session_end(run.session_id, ONE, "failed")
    assert await user.store.session_status(run.session_id) == "failed"
    assert await user.store.session_status("ses_unknown") == "not_existent"


async def test_a_pending_run_is_stopped_at_once(user: StoreUser) -> None:
    run = await user.submit()
    stopped = await user.store.stop_run(run.run_id)
    assert stopped.response == {
        "ok": True,
        "run_id": run.run_id,
        "session_id": run.session_id,
        "status": "stopped",
        "message": "Run cancelled before execution",
    }
    assert (stopped.session_id, stopped.runner_id) == (run.session_id, None)
    assert await user.statuses(run) == ("stopped", "stopped")
    assert await user.claim() is None
    with pytest.raises(InvalidRequest, match=r"Run cannot be stopped \(status: stopped\)"):
        await user.store.stop_run(run.run_id)


@pytest.mark.parametrize("by_session", [True, False])
async def test_a_run_at_a_runner_is_stopping_until_the_report(user: StoreUser, *, by_session: bool) -> None:
    run = await user.submit()
    await user.started()
    stopped = await (user.store.stop_session(run.session_id) if by_session else user.store.stop_run(run.run_id))
    assert (stopped.response["status"], stopped.session_id, stopped.runner_id) == ("stopping", run.session_id, "one")
    assert await user.status(run) == "stopping"
    assert await user.store.stopping_sessions("one") == [run.session_id]
    assert await user.store.stopping_sessions("two") == []
    assert (await user.store.stop_session(run.session_id)).runner_id is None
    await user.store.report_stopped(run.run_id, user.reporter("one"), "SIGTERM")
    assert await user.store.stopping_sessions("one") == []
    assert (await user.store.stop_session(run.session_id)).response["message"] == "Session already stopped"


async def test_a_stop_of_an_idle_session_goes_to_the_runner_of_its_executor(user: StoreUser) -> None:
    run = await user.submit()
    await user.completed(session_status="idle")
    stopped = await user.store.stop_session(run.session_id)
    assert (stopped.response["status"], stopped.runner_id) == ("stopping", "one")
    for stop in (user.store.stop_run("run_x"), user.store.stop_session("ses_x")):
        with pytest.raises(NotFound):
            await stop


@pytest.mark.parametrize("end", ["stop", "expiry"])
async def test_a_further_turn_that_no_runner_had_leaves_the_session_idle(user: StoreUser, end: str) -> None:
    first = await user.submit()
    await user.completed(session_status="idle")
    further = await user.submit(resumes=first.session_id, queue_ttl_seconds=1)
    if end == "stop":
        await user.store.stop_run(further.run_id)
    else:
        user.now_s += 1
        await user.store.tick()
    assert await user.store.session_status(first.session_id) == "idle"
    holding = await user.store.holding_run(first.session_id)
    assert holding is not None and (holding.run_id, holding.runner_id) == (first.run_id, "one")


async def test_a_stop_of_an_idle_session_with_a_further_turn_stops_both(user: StoreUser) -> None:
    first = await user.submit()
    await user.completed(session_status="idle")
    further = await user.submit(resumes=first.session_id)
    stopped = await user.store.stop_session(first.session_id)
    assert (stopped.session_id, stopped.runner_id) == (first.session_id, "one")
    assert await user.status(further) == "stopped"


async def test_a_result_is_that_of_the_last_result_event(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    for timestamp, text in (("2026-03-01T12:00:02Z", "last"), ("2026-03-01T12:00:01Z", "first")):
        await user.event(run.session_id, event_type="result", timestamp=timestamp, result_text=text)
    with pytest.raises(InvalidRequest, match="Session not finished"):
        await user.store.session_result(run.session_id)
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    result = msgspec.json.encode(await user.store.session_result(run.session_id))
    assert msgspec.json.decode(result) == {"result_text": "last", "result_data": None}
    texts = [event.get("result_text") for event in await user.events(run.session_id)]
    assert [text for text in texts if text] == ["first", "last"]
    other = await user.submit()
    await user.completed()
    with pytest.raises(NotFound, match="No result found"):
        await user.store.session_result(other.session_id)


async def test_events_of_unknown_or_other_sessions_are_refused(user: StoreUser) -> None:
    run = await user.submit()
    with pytest.raises(NotFound, match="Session not found"):
        await user.event("ses_unknown")
    with pytest.raises(InvalidRequest, match="Event session_id must match URL session_id"):
        await user.event(run.session_id, session_id="ses_other")
    for call in (
        user.store.session("ses_x"),
        user.store.session_events("ses_x"),
        user.store.session_result("ses_x"),
        user.store.update_session("ses_x", NO_AUTHOR, hostname="h"),
        user.store.update_session("ses_x", NO_AUTHOR),
        user.store.delete_session("ses_x"),
        user.store.run("run_x"),
        user.store.run_row("run_x"),
    ):
        with pytest.raises(NotFound):
            await call
    assert await user.store.holding_run("ses_x") is None
