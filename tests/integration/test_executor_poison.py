"""A message that the coordinator always rejects does not block the other messages of its session."""

from pathlib import Path

import pytest

from tests.support import faults
from tests.support.command_executor import command_home, scripted_bench
from tests.support.faults import Kind

EVENTS = "/sessions/[^/]+/events"
PATIENCE_S = 0.3


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsm_runner.reporting.messages.EXECUTOR_MESSAGE_LIMIT_S", PATIENCE_S)


@pytest.mark.parametrize(
    "kind", [faults.status(500), faults.status(403), faults.html(), faults.reset()], ids=lambda k: k.name
)
@pytest.mark.usefixtures("short_patience")
async def test_a_single_rejected_event_is_given_up(tmp_path: Path, kind: Kind) -> None:
    async with scripted_bench(tmp_path, heartbeat_interval_s=0.1) as at_work:
        at_work.proxy.fault("POST", EVENTS, kind, times=None)
        run = await at_work.start(["bind"], ["event", "poison"])
        await at_work.completes(run)
        assert at_work.accepted_messages(run) == ["started", "bind", "completed"]
        at_work.proxy.heal()
        further = await at_work.resume(run, ["event", "sound"])
        await at_work.completes(further)
        assert await at_work.session(run) == "idle"


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
async def test_an_event_that_is_too_large_for_a_proxy_is_refused_at_once(tmp_path: Path, lifecycle: str) -> None:
    home = command_home(tmp_path / "home", lifecycle=lifecycle)
    async with scripted_bench(tmp_path, home) as at_work:
        at_work.proxy.fault("POST", EVENTS, faults.status(413))
        run = await at_work.start(["bind"], ["event", "too large"], ["report"])
        assert (await at_work.completes(run))["answers"] == [200, 413]
        assert at_work.accepted_messages(run) == ["started", "bind", "events", "completed"]
