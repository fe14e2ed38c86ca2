"""Runs that must have produced something: `expect` of agents and profiles."""

import asyncio
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile, Profile
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.json_schema import checker
from fsm_runner.protocol.wire import Agent
from fsm_runner.runtime.control import provider_limits
from tests.support.command_executor import AGENT, Step, command_home, scripted_bench
from tests.support.repositories import AUTHOR, commit_all, git, new_repository
from tests.support.rights import open_place
from tests.support.runner import System, open_system

DID_NOTHING = "the run did nothing: "
"""The beginning of the error."""
CHECKING = "checking_result"

pytestmark = pytest.mark.usefixtures("own_git_configuration")


COMMANDS = {
    "touch": "touch made",
    "nothing": "echo done",
    "restore": "echo x > tracked; git checkout --quiet -- tracked",
    "delete": "rm -rf .git",
    "print": 'printf %s "$2"',
}


@pytest.fixture
def own_git_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The runner's environment, from which that of git is built, has no git configuration of this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", AUTHOR["GIT_CONFIG_NOSYSTEM"])


def procedural_home(folder: Path, agents: dict[str, Any], **profile_fields: Any) -> LoadedProfile:
    """The home of a profile whose agents are `COMMANDS`. `agents`: further fields of some of them, by name."""
    executor = folder / Path(PROCEDURAL_COMMAND).parent / "commands"
    executor.mkdir(parents=True)
    loaded = []
    for name, script in COMMANDS.items():
        (executor / name).write_text(f"#!/bin/sh\n{script}\n")
        (executor / name).chmod(0o755)
        fields = {"parameters_schema": {"type": "object"}, **agents.get(name, {})}
        loaded.append(Agent(name=name, command=f"commands/{name}", **fields))
    return LoadedProfile(
        name="expecting",
        path=folder / "profiles/expecting.json",
        home=folder,
        profile=Profile(type="procedural", command=PROCEDURAL_COMMAND, **profile_fields),
        agents=tuple(loaded),
        agent_files={agent.name: folder / "agents" / f"{agent.name}.json" for agent in loaded},
    )


@asynccontextmanager
async def procedural(folder: Path, agents: dict[str, Any], **profile_fields: Any) -> AsyncIterator[System]:
    home = procedural_home(folder / "home", agents, **profile_fields)
    async with open_system(folder) as system, system.running(home):
        yield system


async def failure(system: System, agent: str, **parameters: Any) -> str:
    ended = await system.end(await system.submit(agent, **parameters))
    assert (ended.status, bool(ended.error)) == ("failed", True), ended
    return ended.error or ""


async def test_a_run_that_changes_nothing_fails(tmp_path: Path) -> None:
    project = new_repository(tmp_path / "project")
    async with procedural(tmp_path, {}, expect=("changes",)) as system:
        unchanged = f"{DID_NOTHING}the git repository {project} is unchanged (expect: changes)"
        assert await failure(system, "nothing") == unchanged
        assert await failure(system, "restore") == unchanged
        run = await system.completes("touch", x=1)
        assert CHECKING in system.states[run.run_id]
        assert await failure(system, "touch") == unchanged
        await system.completes("delete", x=1)


async def test_without_a_repository_the_executor_is_not_started(tmp_path: Path) -> None:
    async with procedural(tmp_path, {}, expect=("changes",)) as system:
        run = await system.submit("touch")
        assert (await system.end(run)).error == (
            "the run must change a git repository (expect: changes), but "
            f"{tmp_path / 'project'} is in no git repository (`git init` creates one)"
        )
        assert "executing" not in system.states[run.run_id]
        assert not (tmp_path / "project/made").exists()


async def test_the_list_of_an_agent_replaces_that_of_the_profile(tmp_path: Path) -> None:
    agents = {"nothing": {"expect": []}, "print": {"expect": ["changes"]}}
    new_repository(tmp_path / "project")
    async with procedural(tmp_path, agents, expect=("data",)) as system:
        run = await system.completes("nothing", x=1)
        assert CHECKING not in system.states[run.run_id]
        assert "is unchanged (expect: changes)" in await failure(system, "print", text="{}")
        assert await failure(system, "touch") == (
            "the run must end with data (expect: data), but its agent has no output_schema"
        )


async def test_a_coordinator_that_drops_the_expectations_of_agents_changes_nothing(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    agents = {"print": {"expect": ["data"], "output_schema": schema}}
    async with procedural(tmp_path, agents) as system:
        for key in ("expect", "output_schema"):
            system.server.coordinator.agents.by_name["print"].definition.pop(key)
        assert await failure(system, "print", text="{}") == (
            'the result does not match the output_schema of the agent (expect: data): $: "n" is a required property'
        )
        await system.completes("print", text='{"n": 1}')


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (["changes", "magic"], "expect: 'magic' is not one of changes, result, data"),
        ("changes", "expect: Expected `array`, got `str`"),
        ([1], "expect: Expected `str`, got `int` - at `$[0]`"),
    ],
)
async def test_an_agent_of_the_coordinator_with_an_invalid_list_fails_before_it_starts(
    tmp_path: Path, listed: Any, reason: str
) -> None:
    async with scripted_bench(tmp_path) as bench:
        bench.system.server.coordinator.agents.by_name[AGENT].definition["expect"] = listed
        run = await bench.start()
        assert await bench.fails(run) == f"the run's agent cannot be used: {reason}"
        assert bench.system.states[run.run_id][:3] == ["claimed", "reporting", "failed"]


DATA_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@asynccontextmanager
async def scripted(folder: Path, *expect: str, **profile_fields: Any) -> AsyncIterator[Any]:
    home = command_home(folder / "home", **profile_fields)
    agent = msgspec.structs.replace(home.agents[0], expect=list(expect), output_schema=DATA_SCHEMA)
    async with scripted_bench(folder, msgspec.structs.replace(home, agents=(agent,))) as bench:
        yield bench


def results_of(fields: list[dict[str, Any]]) -> list[Step]:
    return [["result", each] for each in fields]


EMPTY = f"{DID_NOTHING}its result is empty (expect: result)"


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
async def test_a_run_without_a_result_fails(tmp_path: Path, lifecycle: str) -> None:
    async with scripted(tmp_path, "result", lifecycle=lifecycle) as bench:
        empty: list[list[dict[str, Any]]] = [
            [],
            [{"result_text": " \n\u00a0"}],
            [{"result_data": {}}],
            [{"result_text": "first"}, {"result_text": ""}],
            [{"result_text": None, "result_data": None}],
        ]
        for results in empty:
            run = await bench.start(["bind"], *results_of(results))
            assert await bench.fails(run) == EMPTY
        full: list[list[dict[str, Any]]] = [
            [{"result_text": "x"}],
            [{"result_data": {"n": None}}],
            [{"result_text": ""}, {"result_text": "last"}],
        ]
        for results in full:
            run = await bench.start(["bind"], *results_of(results))
            assert (await bench.end(run)).status == "completed"


async def test_a_session_continues_after_a_run_that_did_nothing(tmp_path: Path) -> None:
    async with scripted(tmp_path, "result") as bench:
        first = await bench.start(["bind"])
        assert await bench.fails(first) == EMPTY
        second = await bench.resume(first, ["report"])
        assert (await bench.completes(second))["turns"] == 2
        third = await bench.resume(first)
        assert await bench.fails(third) == EMPTY, "the result of another run does not count"


async def test_data_must_match_the_schema_of_the_agent(tmp_path: Path) -> None:
    async with scripted(tmp_path, "data") as bench:
        missing = f"{DID_NOTHING}it has sent no data as its result (expect: data)"
        mismatch = "the result does not match the output_schema of the agent (expect: data): "
        cases: list[tuple[list[dict[str, Any]], str]] = [
            ([], missing),
            ([{"result_text": '{"n": 1}'}], missing),
            ([{"result_data": {}}], f'{mismatch}$: "n" is a required property'),
            ([{"result_data": {"n": 1}}, {"result_data": {"n": "1"}}], f'{mismatch}$.n: "1" is not of type "integer"'),
        ]
        for results, reason in cases:
            run = await bench.start(["bind"], *results_of(results))
            assert await bench.fails(run) == reason
        run = await bench.start(["bind"], ["result", {"result_data": {"n": 1, "more": "x" * 100_000}}])
        assert (await bench.end(run)).status == "completed"


async def test_a_schema_of_a_coordinator_cannot_block_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "VALIDATION_LIMIT_S", 0.5)
    defs: dict[str, Any] = {f"s{i}": {"anyOf": [{"$ref": f"#/$defs/s{i + 1}"}] * 2} for i in range(40)}
    endless = {"$defs": {**defs, "s40": {"type": "string"}}, "$ref": "#/$defs/s0"}
    broken = {"type": "no-type"}
    async with scripted(tmp_path, "data") as bench:
        definition = bench.system.server.coordinator.agents.by_name[AGENT].definition
        definition["output_schema"] = endless
        run = await bench.start(["bind"], ["result", {"result_data": {}}])
        assert "cannot be validated: it takes more than 0.5 s" in await bench.fails(run)
        definition["output_schema"] = broken
        run = await bench.start(["bind"], ["result", {"result_data": {}}])
        assert (await bench.fails(run)).startswith("the agent's output_schema is not a valid JSON Schema: ")
        assert "executing" not in bench.system.states[run.run_id]


async def test_all_that_is_missing_is_named(tmp_path: Path) -> None:
    project = new_repository(tmp_path / "project")
    async with scripted(tmp_path, "changes", "result", "data") as bench:
        assert await bench.fails(await bench.start(["bind"])) == (
            f"{DID_NOTHING}the git repository {project} is unchanged (expect: changes); "
            "its result is empty (expect: result); it has sent no data as its result (expect: data)"
        )


async def test_a_failed_run_keeps_its_own_error(tmp_path: Path) -> None:
    async with scripted(tmp_path, "result", lifecycle="one_shot") as bench:
        run = await bench.start(["complain", "broken"], ["exit", 3])
        assert await bench.fails(run) == "broken (exit code 3)"
        assert CHECKING not in bench.system.states[run.run_id]


@pytest.mark.parametrize("restarts", [False, True], ids=["", "restart"])
@pytest.mark.parametrize("file", ["made", "x.log"])
async def test_a_run_is_compared_with_the_state_before_its_first_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, restarts: bool
) -> None:
    """The first execution writes a file, which may be ignored, and reaches a limit. The second one does nothing."""
    monkeypatch.setattr(provider_limits, "UNKNOWN_RESET_BASE_S", 1.0 if restarts else 0.1)
    project = new_repository(tmp_path / "project")
    home = command_home(tmp_path / "home", expect=("changes",), revive=True)
    state_dir = tmp_path / "state"
    limit = ["metadata", {"limit": {"kind": "five_hour"}}]
    async with open_system(tmp_path, Timings(stale_after_s=0.2)) as system:
        async with system.running(home, state_dir=state_dir) as first:
            run = await system.submit(AGENT, steps=[["bind"], ["write", str(project / file), "x"], limit, ["limited"]])
            await system.state(run, "waiting_for_limit")
            if not restarts:
                await system.end(run)
            await first.drain()
        async with system.running(home, state_dir=state_dir):
            ended = await system.end(run)
    unchanged = f"{DID_NOTHING}the git repository {project} is unchanged (expect: changes)"
    assert (ended.status, ended.error) == (("completed", None) if file == "made" else ("failed", unchanged))
    assert system.states[run.run_id].count("preparing_workspace") == 1


async def test_a_stop_during_the_check_takes_effect(tmp_path: Path) -> None:
    project = new_repository(tmp_path / "project")
    pipe = project / ".git/pipe"
    async with scripted(tmp_path, "changes", lifecycle="one_shot") as bench:
        os.mkfifo(pipe)
        config = (project / ".git/config").read_text() + f"[include]\npath = {pipe}\n"
        run = await bench.start(["bind"], ["write", str(project / ".git/config"), config])
        await bench.system.state(run, CHECKING)
        async with asyncio.timeout(60):
            end = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # waits until git has opened the other end
        await bench.system.api.stop_run(run.run_id)
        ended = await bench.end(run)
        assert ended.status == "stopped", ended.error
        os.close(end)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place() as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.linux(reason="processes of other users")
async def test_git_runs_with_the_rights_of_executors_and_without_their_secrets(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SECRET_OF_PROFILE", "passed on")
    monkeypatch.setenv("EXECUTOR_KEY", "s3cret")
    project, proof, seen = new_repository(place / "project"), place / "proof", place / "seen"
    inner = new_repository(place / "module")
    git(project, "submodule", "--quiet", "add", str(inner), "module")
    commit_all(project)
    program = project / "program"
    program.write_text(f"#!/bin/sh\n(id -u; env) >> {shlex.quote(str(proof))}\ncat\n")
    program.chmod(0o755)
    for name, folder, config in (
        ("x", project, project / ".git/config"),
        ("y", project / "module", project / ".git/modules/module/config"),
    ):
        git(folder, "config", "--file", str(config), f"filter.{name}.clean", str(program))
        git(folder, "config", "--file", str(config), "core.fsmonitor", str(program))
        (config.parent / "info/attributes").write_text(f"* filter={name}\n")
        shutil.copy(program, config.parent / "hooks/post-index-change")
        (folder / "tracked").write_text("ONE\n")
    for file in (proof, seen):
        file.touch()
        file.chmod(0o666)
    for path in (project, *project.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    wrapper = place / "bin/git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\n(id -u; env) >> {shlex.quote(str(seen))}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    variables = ("GIT_SECRET_OF_PROFILE", "EXECUTOR_KEY")
    home = procedural_home(place / "own", {}, expect=("changes",), env=variables)
    async with open_system(place) as system, system.running(home, run_as="nobody"):
        await system.completes("touch", x=1)
        assert "is unchanged" in await failure(system, "nothing")
    assert proof.read_text() == ""
    lines = seen.read_text().splitlines()
    assert {line for line in lines if line.isdecimal()} == {"65534"}
    assert "GIT_SECRET_OF_PROFILE=passed on" in lines
    assert not any("s3cret" in line for line in lines)
