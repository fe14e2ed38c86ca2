"""Which workflow a run follows, and what happens if that cannot be used."""

import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from fsm_runner.protocol.wire import JsonObject
from tests.support.command_executor import AGENT, PROFILE, command_home, held_by
from tests.support.faults import rewrite_run
from tests.support.home import make_home
from tests.support.logs import log_lines
from tests.support.program import environment, finish, program
from tests.support.proxy import POLL
from tests.support.runner import open_system, waiter
from tests.support.workflows import (
    WorkflowBench,
    install,
    results,
    says,
    shell,
    steps,
    with_agent,
    workflow,
    workflow_bench,
)

ONE = workflow(first={"turn": says("from the workflow", ["bind"]), "on_done": "completed"})
TWICE = workflow(
    first={"turn": {}, "on_done": "second"},
    second={"turn": {"parameters": {"text": "again"}}, "on_done": "check"},
    check={"command": shell("test -d ."), "on_done": "completed"},
)
GUARDED = workflow(
    first={
        "turn": says("one", ["bind"]),
        "on_done": [{"when": "first.result == 'one'", "to": "completed"}, {"to": "failed"}],
    }
)


def named(name: object) -> Any:
    """Let the coordinator name this workflow in the next run."""

    def change(response: dict[str, Any]) -> dict[str, Any]:
        response["run"]["resolved_agent_blueprint"]["workflow"] = name
        return response

    return rewrite_run(change)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("../flow", "Workflow not found: '../flow' (did you mean \"flow\"?); there are: broken, flow"),
        ("/etc/passwd", "Workflow not found: '/etc/passwd'"),
        ("missing", "Workflow not found: 'missing'; there are: broken, flow"),
        ("broken", 'broken.toml:5: states.first.on_done: "nowhere" is not a state'),
        (7, "workflow: expected the name of a workflow"),
        ({"name": "flow"}, "workflow: expected the name of a workflow"),
    ],
)
async def test_a_workflow_that_cannot_be_used_fails_its_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: object, error: str
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    home = command_home(tmp_path / "home")
    install(tmp_path / "home", ONE)
    broken = workflow("broken", first={"turn": {}, "on_done": "nowhere"})
    install(tmp_path / "home", broken, "broken")
    home = with_agent(home, "worker")
    async with open_system(tmp_path) as system:
        system.proxy.fault("GET", POLL, named(name), times=None)
        async with system.running(home) as runner:
            bench = WorkflowBench(system, runner, tmp_path)
            run = await bench.submit(steps=[["bind"], ["report"]])
            assert error in await bench.fails(run)
            assert bench.binds(run) == []
            followed = await bench.submit("worker", steps=[["bind"], ["report"]])
            await bench.completes(followed)
            assert await bench.results(followed) == ["from the workflow"]
            plain = await bench.submit(steps=[["bind"], ["report"]])
            assert (await bench.completes(plain))["turns"] == 1


async def test_a_runner_starts_whatever_its_profile_and_agents_name_and_refuses_only_runs_that_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    home = command_home(tmp_path / "home")
    install(tmp_path / "home", ONE)
    install(tmp_path / "home", workflow("broken", first={"turn": {}, "on_done": "nowhere"}), "broken")
    home = with_agent(with_agent(home, "sound"), "worker", "broken")
    home = msgspec.structs.replace(home, profile=msgspec.structs.replace(home.profile, workflow="missing"))
    with log_lines("ERROR") as lines:
        async with workflow_bench(tmp_path, None, home) as bench:
            of_profile, of_agent = sorted(lines, key=lambda line: "broken" in line)
            missing, broken = "Workflow not found: 'missing'; there are: broken, flow", '"nowhere" is not a state'
            why = "new runs fail, because their workflow cannot be used: "
            assert of_profile.startswith(f"{home.path}: {why}{missing}")
            assert of_agent.startswith(f"{home.agent_files['worker']}: {why}")
            assert broken in of_agent
            assert missing in await bench.fails(await bench.submit())
            assert broken in await bench.fails(await bench.submit("worker"))
            await bench.completes(await bench.submit("sound"))


async def test_parameters_that_a_workflow_needs(tmp_path: Path) -> None:
    flow = workflow(
        first={"turn": says("${params.text}", ["bind"]), "on_done": "completed"}, top={"params": {"text": "string"}}
    )
    async with workflow_bench(tmp_path, flow) as bench:
        assert "needs the parameter 'text' (string)" in await bench.fails(await bench.submit())
        assert "to be of the type string, not integer" in await bench.fails(await bench.submit(text=3))
        run = await bench.submit(text="three")
        await bench.completes(run)
        assert await bench.results(run) == ["three"]


async def test_a_procedural_agent_runs_its_command_for_each_turn(tmp_path: Path) -> None:
    async with workflow_bench(tmp_path, TWICE, make_home(tmp_path / "home")) as bench:
        run = await bench.submit("say", text="first")
        assert await bench.completes(run) == {"said": "again"}
        assert await bench.results(run) == [{"said": "again"}]
        assert bench.messages(run) == ['{"said":"first"}', '{"said":"again"}']
        assert len(bench.binds(run)) == 1
        assert bench.path(run) == ["first:done", "second:done", "check:done"]


@pytest.mark.parametrize("arguments", [{"session": "new"}, {"config": {"timeout": 3}}])
async def test_a_procedural_agent_has_no_conversation(tmp_path: Path, arguments: JsonObject) -> None:
    flow = workflow(first={"turn": arguments, "on_done": "completed"})
    async with workflow_bench(tmp_path, flow, make_home(tmp_path / "home")) as bench:
        error = await bench.fails(await bench.submit("say", text="first"))
        assert "a procedural agent has no conversation and takes no configuration" in error


async def test_run_follows_a_workflow_and_shows_its_states(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    install(home, TWICE)
    failing = workflow(
        "failing",
        first={"turn": {}, "on_done": "refuse"},
        refuse={"final": True, "outcome": "failed", "error": "no: ${first.ok} ${params.n}"},
        top={"params": {"n": "integer"}},
    )
    file, broken = tmp_path / "failing.toml", tmp_path / "broken.toml"
    file.write_text(failing)
    broken.write_text(workflow("broken", first={"turn": {}, "on_done": "nowhere"}))
    env = environment(home)
    followed = await finish(tmp_path, env, "run", "say", "text=hello", "--workflow", "flow")
    assert (followed.code, followed.stdout) == (EXIT_OK, '{"said": "again"}\n')
    assert [line.partition(": ")[2] for line in followed.stderr.splitlines()] == ["first", "second", "check"]
    failed = await finish(tmp_path, env, "run", "say", "text=hello", "n=7", "--workflow", str(file))
    assert failed.code == EXIT_FAILED
    assert failed.stderr.splitlines()[-1].endswith("no: true 7")
    refused = await finish(tmp_path, env, "run", "say", "text=hello", "--workflow", str(broken))
    assert refused.code == EXIT_USAGE
    assert "broken.toml:" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_guards_without_their_package_are_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    home, hidden = tmp_path / "home", tmp_path / "hidden"
    command_home(home)
    install(home, GUARDED)
    hidden.mkdir()
    (hidden / "cel_expr_python.py").write_text("raise ImportError('it is hidden')\n")
    env = environment(home)
    env["PYTHONPATH"] = f"{hidden}:{env['PYTHONPATH']}"
    ended = await finish(tmp_path, env, "run", AGENT, "--workflow", "flow")
    assert ended.code == EXIT_USAGE
    assert "pip install 'fsm-runner[workflows]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.linux(reason="prlimit")
async def test_a_state_that_cannot_be_written_to_the_journal_does_not_begin(tmp_path: Path) -> None:
    home = with_agent(command_home(tmp_path / "home"), "worker")
    async with open_system(tmp_path) as system, waiter(tmp_path) as held:
        mark = tmp_path / "mark"
        flow = workflow(
            first={"turn": steps(["bind"], *held_by(held)), "on_done": "second"},
            second={"command": shell('touch "$1"', str(mark)), "on_done": "completed"},
        )
        install(tmp_path / "home", flow)
        arguments = ("-x", PROFILE, "-c", system.proxy.url, "--state-dir", str(tmp_path / "state"))
        async with program(tmp_path, environment(home.home), *arguments) as runner:
            await runner.said("online")
            run = await system.submit("worker")
            pid = await held.started.pid()
            resource.prlimit(runner.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            held.gate.write_line()
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
            ended = await system.api.run(run.run_id)
            assert "journal" in (ended.error or ""), ended.error
            assert not mark.exists()
            resource.prlimit(
                runner.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            await runner.said("suspended → online")
            again = await system.submit("worker")
            await held.started.pid()
            held.gate.write_line()
            await system.proxy.answered("POST", f"/runner/runs/{again.run_id}/completed")
            assert mark.exists()
            assert pid > 0
            assert await results(system, again) == [""]
