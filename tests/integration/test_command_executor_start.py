"""The search for an executor, and its start (protocol.md, section 2)."""

import sys
from pathlib import Path

import msgspec
import pytest

from fsm_runner.config import paths as home_module
from fsm_runner.config.manifest import manifest_beside
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import LoadedProfile, load_profile
from fsm_runner.errors import EXIT_USAGE, UsageError
from tests.support.command_executor import COMMAND, PROFILE, command_home, scripted_bench, scripted_executor_source
from tests.support.logs import log_lines
from tests.support.program import environment, program
from tests.support.runner import open_system

PEP_723 = """\
#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.10"
# dependencies = []
# [tool.uv]
# ///
"""
"""With uv settings, without which the script would run in the runner's own environment."""
SAYS_WHO = "#!/bin/sh\necho {who} >&2\nexit 1\n"


def _brief(text: str) -> str:
    return ascii(text[:20])


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize("mode", [0o755, 0o644])
async def test_a_script_with_a_header_of_pep_723_is_started_by_uv(
    tmp_path: Path, lifecycle: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON", sys.executable)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    home = command_home(tmp_path / "home", PEP_723 + scripted_executor_source(), lifecycle=lifecycle)
    home.executor_path.chmod(mode)
    async with scripted_bench(tmp_path, home) as at_work:
        first = await at_work.start(["bind"], ["report"])
        environment = (await at_work.completes(first))["environment"]
        assert environment["UV_CACHE_DIR"] == str(tmp_path / "cache")
        assert environment["AGENT_SESSION_ID"] == first.session_id
        await at_work.completes(await at_work.resume(first, ["report"]))


async def test_a_script_that_needs_uv_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = command_home(tmp_path / "home", PEP_723 + scripted_executor_source())
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    refusal = await _refused(tmp_path, home)
    assert refusal.startswith(f"{home.path}: command: the executor {home.executor_path} ")
    assert "`uv` has to be on PATH" in refusal


async def test_a_missing_executor_is_reported_before_the_runner_registers(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home")
    home.executor_path.unlink()
    assert await _refused(tmp_path, home) == f"{home.path}: command: there is no executor {tmp_path / 'home' / COMMAND}"


@pytest.mark.parametrize("command", ["executors", "", "x" * 5000, "executors/scripted/exec/deeper", "a\0b"], ids=_brief)
async def test_a_command_that_names_no_file_is_refused(tmp_path: Path, command: str) -> None:
    home = command_home(tmp_path / "home")
    profile = msgspec.structs.replace(home.profile, command=command)
    refusal = await _refused(tmp_path, msgspec.structs.replace(home, profile=profile))
    assert refusal.startswith(f"{home.path}: command: ")
    assert len(refusal) < 1000


async def test_an_executor_that_is_not_executable_is_refused_with_what_to_do(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home")
    home.executor_path.chmod(0o644)
    assert await _refused(tmp_path, home) == (
        f"{home.path}: command: the executor {home.executor_path} is not executable: "
        f"run `chmod +x {home.executor_path}`"
    )


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("#!/nowhere/python3\n", "the interpreter in the first line of {executor}, /nowhere/python3, does not exist"),
        ("#!/bin/sh\r\nexit 0\r\n", "Windows line endings"),
        ("plain text", "{executor} is neither a program for this machine nor a script"),
    ],
    ids=["no interpreter", "CRLF", "no script"],
)
async def test_an_executor_that_cannot_be_started_fails_its_run_with_the_reason(
    tmp_path: Path, lifecycle: str, source: str, reason: str
) -> None:
    home = command_home(tmp_path / "home", source, lifecycle=lifecycle)
    async with scripted_bench(tmp_path, home) as at_work:
        run = await at_work.start()
        assert reason.format(executor=home.executor_path) in await at_work.fails(run)
        assert at_work.system.reports(run) == ["started", "failed"]
        home.executor_path.write_text(scripted_executor_source())
        await at_work.completes(await at_work.start())


async def test_the_configured_home_comes_first(places: "Places") -> None:
    places.everywhere()
    assert await places.who(configured=True) == "configured"


async def test_the_working_directory_comes_before_the_bundled_home(places: "Places") -> None:
    places.everywhere()
    assert await places.who(configured=False) == "here"


async def test_a_profile_of_the_working_directory_may_use_a_bundled_executor(places: "Places") -> None:
    places.everywhere()
    (places.here / COMMAND).unlink()
    assert await places.who(configured=False) == "bundled"


async def test_a_configured_home_uses_nothing_from_others(places: "Places") -> None:
    places.everywhere()
    (places.configured / COMMAND).unlink()
    with pytest.raises(UsageError, match=f"there is no executor {places.configured / COMMAND}"):
        await places.who(configured=True)


class Places:
    """Three homes, each with the profile `scripted_bench`, whose executor reports its folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.configured, self.here, self.bundled = (folder / name for name in ("configured", "here", "bundled"))
        self._monkeypatch = monkeypatch

    def everywhere(self) -> None:
        for home in (self.configured, self.here, self.bundled):
            command_home(home, SAYS_WHO.format(who=home.name), lifecycle="one_shot")
        (self.bundled / "specs").symlink_to(home_module.bundled() / "specs")

    async def who(self, *, configured: bool) -> str:
        """Return the executor that a runner of this profile starts."""
        self._monkeypatch.setattr(home_module, "bundled", lambda: self.bundled)
        self._monkeypatch.chdir(self.here)
        if configured:
            self._monkeypatch.setenv(HOME_VARIABLE, str(self.configured))
        else:
            self._monkeypatch.delenv(HOME_VARIABLE, raising=False)
        async with scripted_bench(self.folder, load_profile(PROFILE)) as at_work:
            return (await at_work.fails(await at_work.start())).removesuffix(" (exit code 1)")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


async def _refused(folder: Path, home: LoadedProfile) -> str:
    """Return the error of a runner of this home, which does not register."""
    async with open_system(folder) as system:
        with pytest.raises(UsageError) as refusal:
            async with system.running(home):
                pass
        assert await system.runners() == []
        assert system.proxy.calls == []
    return str(refusal.value)


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({}, "none is set"),
        ({"A_TOKEN": ""}, "none is set"),
        ({"A_KEY": "k"}, None),
        ({"A_TOKEN": "t", "A_KEY": "k"}, "more than one is set"),
    ],
)
async def test_a_runner_says_at_its_start_that_credentials_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], warning: str | None
) -> None:
    home = command_home(tmp_path / "home")
    home.executor_path.with_name("executor.json").write_text('{"credentials": ["A_TOKEN", "A_KEY"]}')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with log_lines() as lines:
        async with scripted_bench(
            tmp_path, msgspec.structs.replace(home, manifest=manifest_beside(home.executor_path))
        ):
            pass
    warnings = [line for line in lines if "A_TOKEN or A_KEY" in line]
    assert warnings == [] if warning is None else warning in warnings[0]


async def test_a_runner_that_cannot_start_its_executor_does_not_say_that_it_serves(tmp_path: Path) -> None:
    home = command_home(tmp_path / "home", command="executors")
    async with program(tmp_path, environment(home.home), "--profile", PROFILE) as runner:
        assert await runner.exit_code() == EXIT_USAGE
    assert len(runner.lines) == 1
    assert "is a directory" in runner.lines[0]
