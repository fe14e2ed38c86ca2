"""A runner that leaves while the coordinator is away leaves its reports to its next process."""

from pathlib import Path

import pytest

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.actors import runner as runner_module
from fsm_runner.runtime.control.registration import Registrar
from tests.support import faults
from tests.support.home import make_home
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import bench


async def test_a_report_that_the_journal_keeps_does_not_delay_the_end_and_is_sent_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    profile, state_dir = make_home(tmp_path / "home"), tmp_path / "state"
    async with bench(tmp_path, Timings(stale_after_s=0.2)) as desk:
        async with desk.running(profile, state_dir=state_dir, grace_period_s=60) as first:
            desk.proxy.fault("POST", REPORT + ".*", faults.reset(), times=None)
            run = await desk.submit("say", text="x")
            await desk.proxy.seen("POST", REPORT + "started")
            await desk.state(run, "reporting")
            assert await first.drain() == "stopped"
            assert first.path[-3:] == ["flushing_reports", "deregistering", "stopped"]
        assert desk.proxy.acknowledged("POST", TERMINAL_REPORT) == []
        assert desk.proxy.calls_for("DELETE", ".*") == []  # the coordinator would fail a run whose end is known
        async with desk.running(profile, state_dir=state_dir) as second:
            assert (await desk.end(run)).status == "completed"
            assert second.path[0] == "recovering"
        (told,) = desk.proxy.acknowledged("POST", TERMINAL_REPORT)
        assert told.path.endswith("/completed")


async def test_a_run_that_arrives_at_the_last_moment_is_reported_before_the_runner_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_attempt = Registrar.wait_for_attempt
    late: list[RunCreated] = []
    async with bench(tmp_path) as desk:

        async def after_one_more_run(registrar: Registrar, limit_s: float) -> None:
            """No run was active any more, and the held poll delivers one."""
            late.append(await desk.submit("say", text="x"))
            await desk.state(late[0], "reporting")
            await wait_for_attempt(registrar, limit_s)

        monkeypatch.setattr(Registrar, "wait_for_attempt", after_one_more_run)
        async with desk.running(make_home(tmp_path / "home"), state_dir=tmp_path / "state") as runner:
            desk.proxy.fault("POST", TERMINAL_REPORT, faults.delay(0.2))
            await desk.proxy.seen("GET", POLL)
            assert await runner.drain() == "stopped"
        assert (await desk.api.run(late[0].run_id)).status in ("completed", "stopped")
        assert await desk.runners() == []


async def test_the_runner_waits_for_reports_that_no_journal_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    async with bench(tmp_path) as desk, desk.running(make_home(tmp_path / "home"), grace_period_s=60) as runner:
        desk.proxy.fault("POST", REPORT + ".*", faults.reset(), times=None)
        run = await desk.submit("say", text="x")
        await desk.state(run, "reporting")
        runner.actor.post("drain_requested", "the test is over")
        await runner.goes_through("draining")
        await desk.proxy.seen("POST", REPORT + "started", 5)
        assert runner.actor.state == "draining"
        desk.proxy.heal()
        assert await runner.ended() == "stopped"
        assert (await desk.api.run(run.run_id)).status == "completed"
