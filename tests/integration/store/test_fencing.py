"""Runners that take part in fencing: reports, events and bindings of an earlier attempt or process change nothing."""

from typing import Any

import pytest

from fsm_runner.coordinator_server.errors import NotFound, RegistrationSuperseded, RequestError, RunReassigned
from fsm_runner.coordinator_server.store.interface import Author, Reporter
from tests.support.stores import OpenStore, StoreUser, opened


def reports(user: StoreUser, run: Any, reporter: Reporter) -> list[Any]:
    return [
        user.store.report_started(run.run_id, reporter),
        user.store.report_completed(run.run_id, reporter, "finished"),
        user.store.report_failed(run.run_id, reporter, "error"),
        user.store.report_stopped(run.run_id, reporter, "SIGTERM"),
    ]


def writes(user: StoreUser, run: Any, author: Author) -> list[Any]:
    return [
        user.event(run.session_id, author),
        user.store.update_session(run.session_id, author, status="running", hostname="h"),
    ]


async def contents(user: StoreUser, run: Any) -> tuple[Any, ...]:
    """Return everything that a report can change."""
    return (
        await user.store.run(run.run_id),
        await user.store.session(run.session_id),
        await user.store.session_events(run.session_id),
    )


async def all_refused(user: StoreUser, run: Any, calls: list[Any], kind: type[RequestError]) -> list[Any]:
    """Check that each call is refused and changes nothing, and return the details."""
    before = await contents(user, run)
    user.changes.clear()
    details = []
    for call in calls:
        with pytest.raises(kind) as refused:
            await call
        details.append(refused.value.detail)
    assert await contents(user, run) == before
    assert user.changes == []
    return details


async def test_each_registration_has_a_greater_number(user: StoreUser) -> None:
    numbers = [await user.register(runner_id) for runner_id in ("one", "two", "one", "three", "two")]
    assert numbers == sorted(set(numbers))


async def test_a_number_is_greater_than_those_of_a_lost_database_and_of_a_clock_that_went_back(
    user: StoreUser, open_store: OpenStore
) -> None:
    numbers = [await user.register("one") for _ in range(3)]
    async with opened(open_store) as restarted:
        restarted.now_s = user.now_s + 0.01
        numbers.append(await restarted.register("one"))
        restarted.now_s -= 60
        numbers.append(await restarted.register("two"))
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 10**18


async def test_calls_of_an_earlier_registration_are_superseded(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    reporter, author = user.reporter("one"), user.author("one", run)
    await user.register("two")
    await user.store.report_session_end(run.session_id, reporter, "finished")  # another runner changes nothing
    await user.register("one")
    calls = [
        *reports(user, run, reporter),
        *writes(user, run, author),
        *writes(user, run, Author(registration=author.registration)),
    ]
    details = await all_refused(user, run, calls, RegistrationSuperseded)
    assert {detail["error"] for detail in details} == {"registration_superseded"}
    assert [detail["runner_id"] for detail in details] == ["one"] * 6 + [None] * 2
    # The new registration continues with the run.
    await user.event(run.session_id, user.author("one", run))
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    assert await user.status(run) == "completed"


async def test_a_run_that_another_runner_holds_is_reassigned(user: StoreUser) -> None:
    run = await user.submit(retry_lost=1)
    await user.started("one")
    late, author = user.reporter("one"), user.author("one", run)
    await user.store.close_runner("one", "gone")
    calls = [*reports(user, run, late), *writes(user, run, author)]
    details = await all_refused(user, run, calls, RunReassigned)  # it is pending
    assert all(detail["attempt"] == 2 for detail in details)
    await user.claimed("two")
    await all_refused(user, run, [*reports(user, run, late), *writes(user, run, author)], RunReassigned)
    await user.store.report_completed(run.run_id, user.reporter("two"), "finished")
    await all_refused(user, run, [*reports(user, run, late), *writes(user, run, author)], RunReassigned)


async def test_an_earlier_attempt_of_the_same_runner_is_reassigned(user: StoreUser) -> None:
    run = await user.submit(retry_lost=1)
    await user.started()
    await user.event(run.session_id, user.author("one", run, 1))
    await user.store.close_runner("one", "gone")
    await user.started()
    for calls in (reports(user, run, user.reporter("one", 1)), writes(user, run, user.author("one", run, 1))):
        details = await all_refused(user, run, calls, RunReassigned)
        assert all(detail["attempt"] == 2 for detail in details)
    await user.event(run.session_id, user.author("one", run, 2))
    await user.store.report_completed(run.run_id, user.reporter("one", 2), "finished")
    assert await user.status(run) == "completed"
    await all_refused(user, run, reports(user, run, user.reporter("one", 1)), RunReassigned)


async def test_a_released_run_belongs_to_no_runner(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed("one")
    await user.store.release(run.run_id)
    await all_refused(user, run, reports(user, run, user.reporter("one")), RunReassigned)


async def test_a_repeated_report_changes_nothing(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    before = await contents(user, run)
    user.now_s += 1
    await user.store.report_started(run.run_id, user.reporter("one"))
    assert await contents(user, run) == before
    await user.store.report_completed(run.run_id, user.reporter("one"), "idle")
    before = await contents(user, run)
    user.now_s += 1
    user.changes.clear()
    for report in reports(user, run, user.reporter("one")):
        row = await report
        assert row is None or (row.run_id, row.status) == (run.run_id, "completed")
    assert await contents(user, run) == before
    assert user.changes == []


async def test_a_run_may_end_without_a_start(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed()
    await user.store.report_failed(run.run_id, user.reporter("one"), "no executor")
    assert await user.statuses(run) == ("failed", "failed")


async def test_a_report_of_the_start_does_not_undo_a_stop(user: StoreUser) -> None:
    run = await user.submit()
    await user.claimed()
    await user.store.stop_run(run.run_id)
    await user.store.report_started(run.run_id, user.reporter("one"))
    fields = await user.store.run(run.run_id)
    assert (fields["status"], fields["started_at"]) == ("stopping", user.at())
    assert await user.store.stopping_sessions("one") == [run.session_id]


@pytest.mark.parametrize("end", [1, 2, 3])
async def test_the_late_end_of_a_run_that_failed_as_lost_counts(user: StoreUser, end: int) -> None:
    run = await user.submit()
    await user.started()
    await user.store.close_runner("one", "gone")
    assert await user.statuses(run) == ("failed", "failed")
    await user.register("one")
    late_start, *ends = reports(user, run, user.reporter("one"))
    await late_start
    assert await user.statuses(run) == ("failed", "failed")
    status = ("completed", "failed", "stopped")[end - 1]
    for number, late in enumerate(ends, 1):
        if number == end:
            assert (await late).status == status
        else:
            late.close()
    fields = await user.store.run(run.run_id)
    assert (fields["status"], fields["error"]) == (status, "error" if end == 2 else None)
    assert (await user.events(run.session_id))[-1]["status"] == status
    # The first late end is the last one.
    count = len(await user.events(run.session_id))
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    assert await user.status(run) == status
    assert len(await user.events(run.session_id)) == count


async def test_a_holder_may_write_to_its_session_before_and_after_the_end(user: StoreUser) -> None:
    run = await user.submit()
    await user.started()
    author = user.author("one", run)
    await user.event(run.session_id, author)
    assert (await user.store.update_session(run.session_id, author, hostname="h"))["hostname"] == "h"
    await user.store.report_completed(run.run_id, user.reporter("one"), "finished")
    await user.event(run.session_id, author)
    assert [event["event_type"] for event in await user.events(run.session_id)].count("message") == 2


async def test_a_writer_names_a_run_of_the_session(user: StoreUser) -> None:
    run, other = await user.submit(), await user.submit()
    await user.started()
    await user.started()
    await all_refused(user, run, writes(user, run, user.author("one", other)), RunReassigned)
    unknown = Author(run_id="run_x", registration=user.registrations["one"])
    await all_refused(user, run, writes(user, run, unknown), NotFound)


async def test_writers_without_a_registration_are_not_checked(user: StoreUser) -> None:
    run = await user.submit()
    for author in (Author(), Author(run_id=run.run_id), Author(run_id="run_x")):
        for write in writes(user, run, author):
            await write
