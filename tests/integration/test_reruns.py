"""A runner repeats an ended run from a state of its workflow on, as a new run of its coordinator."""

import json
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fsm_runner.app.control_socket import REQUEST_LIMIT_BYTES
from fsm_runner.cli.rerun import rerun
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.reader import Reader, journals
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import ExecutorInfo, Registration, Run, RunCreated
from fsm_runner.runtime.workflow.reruns import Reruns
from tests.support import faults
from tests.support.coordinated_home import write_coordinated_home
from tests.support.ended_workflow import RUN, SHIP, load, record_of, write_ended_run
from tests.support.faults import Answer
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, finish, program
from tests.support.runner import System, open_system

REGISTRATION = Registration(
    hostname="host",
    project_dir="/project",
    executor_profile="bench",
    executor=ExecutorInfo(type="autonomous", command="executors/bench"),
    tags=["gpu"],
    require_matching_tags=True,
)


class HeldRuns:
    """The runs of a runner, which the test names."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.stopped: list[str] = []
        self.is_claimed = False

    def is_active(self, run_id: str) -> bool:
        return run_id in self.active

    async def was_claimed(self, run_id: str) -> bool:
        return self.is_claimed

    def stop_run(self, run_id: str, reason: str) -> None:
        self.stopped.append(run_id)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with open_system(tmp_path) as system:
        yield system


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    parameters = b'{"text":"do it","prompt":"a prompt"}'
    record = record_of(load(tmp_path / "home"), parameters=parameters, project_dir="/elsewhere", scope=b'{"key":1}')
    await write_ended_run(tmp_path / "0123", record, agent=None)
    journal = Journal(tmp_path / "0123")
    yield journal
    await journal.aclose()


async def start(
    system: System,
    journal: Journal,
    runs: HeldRuns | None = None,
    *,
    run_id: str = RUN,
    state: str = "verify",
    registration: Registration = REGISTRATION,
    is_leaving: bool = False,
) -> RunCreated:
    async with CoordinatorApi(system.proxy.url) as api:
        reruns = Reruns(api, journal, registration, runs or HeldRuns(), lambda: is_leaving)
        return await reruns.start(run_id, state, None)


def claim(journal: Journal, created: RunCreated) -> None:
    journal.record_claim(created.run_id, created.session_id, None, "me", b"{}")


def planned_sessions(journal: Journal) -> list[str]:
    return list(journal._reruns)


async def test_the_new_run_leads_back_to_this_runner(system: System, journal: Journal) -> None:
    made = await start(system, journal)
    run = await system.api.run(made.run_id)
    assert (run.agent_name, run.parameters) == (None, {"text": "do it", "prompt": "a prompt"})
    assert run.session_id == made.session_id
    assert run.project_dir == "/elsewhere"
    demands = run.demands or {}
    wanted = {"hostname": "host", "project_dir": "/project", "executor_profile": "bench", "tags": ["gpu"]}
    assert {name: demands.get(name) for name in wanted} == wanted
    (call,) = system.proxy.calls_for("POST", "/runs")
    assert call.json["scope"] == {"key": 1}
    assert "workflow" not in json.dumps(call.json)


async def test_its_plan_is_on_disk_before_the_coordinator_knows_the_run(
    system: System, journal: Journal, tmp_path: Path
) -> None:
    made = await start(system, journal)
    await journal.aclose()
    again = Journal(tmp_path / "0123")
    claim(again, made)
    plan = again.rerun_plan_of(made.run_id)
    await again.aclose()
    assert plan is not None
    assert (plan.state, plan.record.rerun_of, list(plan.values)) == ("verify", RUN, ["verify", "work"])


async def test_a_coordinator_that_refuses_the_run_leaves_no_plan(system: System, journal: Journal) -> None:
    system.proxy.fault("POST", "/runs", faults.status(400))
    with pytest.raises(FsmRunnerError, match="the coordinator has not created the run: "):
        await start(system, journal)
    assert planned_sessions(journal) == []


async def test_the_plan_stays_if_the_coordinator_may_have_created_the_run(system: System, journal: Journal) -> None:
    system.proxy.fault("POST", "/runs", faults.status(502))
    with pytest.raises(FsmRunnerError, match=r"has not answered: .*\. If it has created the run, session ses_\w+ has"):
        await start(system, journal)
    (session_id,) = planned_sessions(journal)
    claim(journal, RunCreated(run_id="run_1", session_id=session_id))
    assert journal.rerun_plan_of("run_1") is not None


OTHER = RunCreated(run_id="run_1", session_id="ses_of_its_own")


def choose_session(system: System) -> None:
    """Let the coordinator ignore the session id in the request."""
    system.proxy.fault("POST", "/runs", faults.instead("another session", Answer(201, msgspec.json.encode(OTHER))))


async def test_a_coordinator_that_chooses_the_session_gets_the_plan_for_it(system: System, journal: Journal) -> None:
    choose_session(system)
    made = await start(system, journal)
    assert (made, planned_sessions(journal)) == (OTHER, ["ses_of_its_own"])
    claim(journal, made)
    assert journal.rerun_plan_of("run_1") is not None


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_run_that_began_without_its_plan_is_stopped(system: System, journal: Journal, has_ended: bool) -> None:
    choose_session(system)
    runs = HeldRuns()
    runs.active, runs.is_claimed = (set(), True) if has_ended else ({OTHER.run_id}, False)
    with pytest.raises(FsmRunnerError, match=f"{OTHER.run_id} .*, and the run began before"):
        await start(system, journal, runs)
    assert (runs.stopped, planned_sessions(journal)) == ([OTHER.run_id], [])


async def test_nothing_is_created_if_the_plan_cannot_be_written(
    system: System, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushes = journal.flush, 0

    async def fail_second() -> None:
        nonlocal flushes
        flushes += 1
        if flushes == 2:
            raise JournalUnwritable(journal.path, "the disk is full")
        await flush()

    monkeypatch.setattr(journal, "flush", fail_second)
    with pytest.raises(JournalUnwritable):
        await start(system, journal)
    assert (planned_sessions(journal), system.proxy.calls_for("POST", "/runs")) == ([], [])


async def test_a_runner_that_leaves_repeats_nothing(system: System, journal: Journal) -> None:
    with pytest.raises(FsmRunnerError, match="the runner is leaving and claims no more runs: start it again first"):
        await start(system, journal, is_leaving=True)


async def test_an_unknown_run_is_refused(system: System, journal: Journal) -> None:
    with pytest.raises(UsageError, match="run_other is not in the journal of this runner"):
        await start(system, journal, run_id="run_other")


async def test_a_failed_run_is_repeated_with_a_corrected_workflow(system: System, tmp_path: Path) -> None:
    home = make_home(tmp_path / "bench", workflow="ship").home
    load(home / "workflows")
    corrected = load(tmp_path / "corrected", SHIP.replace("published", "corrected"))
    state_dir, project = str(tmp_path / "state"), tmp_path / "project"
    project.mkdir()
    env = environment(home)
    flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--state-dir", state_dir)
    async with program(project, env, *flags, "--external-mcp-url", "http://none") as runner:
        await runner.said("registered")
        first = await system.submit("say", text="do it")
        ended = await ended_at(system, first.run_id)
        assert ended.status == "failed"
        assert (ended.error or "").startswith('the state "verify" has used up its `max_visits` (3)')
        command = ("rerun", first.run_id, "--from", "publish", "--state-dir", state_dir)
        done = await finish(project, env, *command, "--workflow", str(corrected.path))
        assert done.code == 0, done.stderr
        second = msgspec.json.decode(done.stdout, type=RunCreated)
        assert (await ended_at(system, second.run_id)).status == "completed"
        runner.terminate()
        assert await runner.exit_code() == 0
    with closing(Reader(journals(tmp_path / "state")[0])) as reader:
        (life,), visits = reader.workflow_of(second.run_id), list(reader.visits_of(second.run_id))
    assert (life.record.text, life.record.rerun_of) == (corrected.text, first.run_id)
    assert [(visit.number, visit.state, visit.ending) for visit in visits] == [(1, "publish", "done")]
    assert msgspec.json.decode(visits[0].value or b"")["stdout"] == "corrected: a text after 1"
    missing = await finish(project, env, *command)
    assert missing.code == 1
    assert "is not running here: start it again, with the same profile, project directory" in missing.stderr


async def test_the_next_process_of_a_killed_runner_follows_the_plan(tmp_path: Path) -> None:
    profile = write_coordinated_home(tmp_path / "bench", {"say": "echo said"})
    async with open_system(tmp_path, agents_dir=tmp_path / "bench" / "agents") as system:
        async with system.running(profile, state_dir=tmp_path / "state") as runner:
            registered = (await system.runners())[0]
            await runner.drain()
        folder = journals(tmp_path / "state")[0].parent
        await write_ended_run(folder, record_of(load(tmp_path / "home")))
        identity = {name: registered[name] for name in ("hostname", "project_dir", "executor_profile")}
        registration = msgspec.structs.replace(REGISTRATION, **identity, tags=[])
        journal = Journal(folder)  # its process is gone before the run is claimed
        made = await start(system, journal, registration=registration, state="publish")
        await journal.aclose()
        async with system.running(profile, state_dir=tmp_path / "state"):
            assert (await system.end(made)).status == "completed"
    with closing(Reader(folder / "journal.sqlite")) as reader:
        assert [visit.state for visit in reader.visits_of(made.run_id)] == ["publish"]


async def ended_at(system: System, run_id: str) -> Run:
    """Return the run when the coordinator has its end."""

    async def has_ended() -> bool:
        return (await system.api.run(run_id)).status in TERMINAL_RUN_STATUSES

    await system.proxy.wait_until(has_ended, f"the end of {run_id}")
    return await system.api.run(run_id)


async def test_an_unknown_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await write_ended_run(tmp_path / "state" / "0123", record_of(load(tmp_path / "home")))
    (tmp_path / "state" / "dead").mkdir()
    (tmp_path / "state" / "dead" / "journal.sqlite").write_bytes(b"no database" * 1_000)
    with pytest.raises(UsageError, match="there is no run 'run_other' in the journals in "):
        rerun(tmp_path / "state", "run_other", "verify", None)
    assert "dead/journal.sqlite: the journal cannot be read" in capsys.readouterr().err


async def test_a_workflow_that_no_request_can_contain_is_refused_with_the_limit(tmp_path: Path) -> None:
    await write_ended_run(tmp_path / "state" / "0123", record_of(load(tmp_path / "home")))
    file = tmp_path / "ship.toml"
    file.write_text(f"{SHIP}# {'x' * REQUEST_LIMIT_BYTES}\n")
    with pytest.raises(UsageError, match=r"ship\.toml: .* accepts less than 262,144 in a request: move long texts"):
        rerun(tmp_path / "state", RUN, "verify", str(file))
