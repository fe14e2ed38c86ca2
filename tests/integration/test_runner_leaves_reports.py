"""A runner that leaves while the coordinator is away leaves its reports to its next process."""

from pathlib import Path

import pytest

from fsm_runner.config.paths import bundled
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import UsageError
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.actors import runner as runner_module
from fsm_runner.runtime.control.registration import Registrar
from tests.support import faults
from tests.support.command_executor import SESSION_STATUS, ScriptedBench, command_home
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.proxy import POLL, REPORT, TERMINAL_REPORT
from tests.support.runner import open_system


async def test_a_report_that_the_journal_keeps_does_not_delay_the_end_and_is_sent_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    profile, state_dir = make_home(tmp_path / "home"), tmp_path / "state"
    async with open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        async with system.running(profile, state_dir=state_dir, grace_period_s=60) as first:
            system.proxy.fault("POST", REPORT + ".*", faults.reset(), times=None)
            run = await system.submit("say", text="x")
            await system.proxy.seen("POST", REPORT + "started")
            await system.state(run, "reporting")
            assert await first.drain() == "stopped"
            assert first.path[-3:] == ["flushing_reports", "deregistering", "stopped"]
        assert system.proxy.acknowledged("POST", TERMINAL_REPORT) == []
        assert system.proxy.calls_for("DELETE", ".*") == []  # the coordinator would fail a run whose end is known
        async with system.running(profile, state_dir=state_dir) as second:
            assert (await system.end(run)).status == "completed"
            assert second.path[0] == "recovering"
        (received,) = system.proxy.acknowledged("POST", TERMINAL_REPORT)
        assert received.path.endswith("/completed")


async def test_the_report_of_a_session_that_the_journal_keeps_is_sent_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    home, state_dir = command_home(tmp_path / "home"), tmp_path / "state"
    async with open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        async with system.running(home, state_dir=state_dir, grace_period_s=60) as first:
            bench = ScriptedBench(system, first)
            run = await bench.start(["bind"], ["report"])
            await bench.completes(run)
            system.proxy.fault("POST", ".*", faults.reset(), times=None)
            with log_lines("WARNING") as lines:
                assert await first.drain() == "stopped"
            assert "not deregistered, because this is left to the runner's next process: 1 report" in lines
            # Before the end of the context, which removes the faults.
            assert system.proxy.acknowledged("POST", SESSION_STATUS) == []
            assert system.proxy.calls_for("DELETE", ".*") == []
        async with system.running(home, state_dir=state_dir):
            await system.proxy.answered("POST", SESSION_STATUS)
        assert await bench.session(run) == "finished"


async def test_a_runner_whose_spec_lacks_the_state_of_a_run_in_the_journal_does_not_start_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    profile, state_dir = make_home(tmp_path / "home"), tmp_path / "state"
    async with open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        async with system.running(profile, state_dir=state_dir, grace_period_s=60) as first:
            system.proxy.fault("POST", REPORT + ".*", faults.reset(), times=None)
            run = await system.submit("say", text="x")
            await system.state(run, "reporting")
            assert await first.drain() == "stopped"
        spec = tmp_path / "home" / "specs" / "run.toml"
        spec.parent.mkdir()
        spec.write_text((bundled() / "specs" / "run.toml").read_text().replace("reporting", "telling"))
        monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path / "home"))
        with pytest.raises(UsageError, match=f"^{spec} has no state 'reporting', .* has run {run.run_id}: "):
            async with system.running(profile, state_dir=state_dir):
                pass
        spec.unlink()
        async with system.running(profile, state_dir=state_dir):
            assert (await system.end(run)).status == "completed"


async def test_a_run_that_arrives_at_the_last_moment_is_reported_before_the_runner_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_attempt = Registrar.wait_for_attempt
    late: list[RunCreated] = []
    async with open_system(tmp_path) as system:

        async def after_one_more_run(registrar: Registrar, limit_s: float) -> None:
            """No run was active any more, and the held poll delivers one."""
            late.append(await system.submit("say", text="x"))
            await system.state(late[0], "reporting")
            await wait_for_attempt(registrar, limit_s)

        monkeypatch.setattr(Registrar, "wait_for_attempt", after_one_more_run)
        async with system.running(make_home(tmp_path / "home"), state_dir=tmp_path / "state") as runner:
            system.proxy.fault("POST", TERMINAL_REPORT, faults.delay(0.2))
            await system.proxy.seen("GET", POLL)
            assert await runner.drain() == "stopped"
        assert (await system.api.run(late[0].run_id)).status in ("completed", "stopped")
        assert await system.runners() == []


async def test_the_runner_waits_for_reports_that_no_journal_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SILENCE_LIMIT_S", 0.05)
    async with (
        open_system(tmp_path) as system,
        system.running(make_home(tmp_path / "home"), grace_period_s=60) as runner,
    ):
        system.proxy.fault("POST", REPORT + ".*", faults.reset(), times=None)
        run = await system.submit("say", text="x")
        await system.state(run, "reporting")
        runner.actor.post("drain_requested", "the test is over")
        await runner.goes_through("draining")
        await system.proxy.seen("POST", REPORT + "started", 5)
        assert runner.actor.state == "draining"
        system.proxy.heal()
        assert await runner.ended() == "stopped"
        assert (await system.api.run(run.run_id)).status == "completed"
