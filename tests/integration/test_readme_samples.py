"""The README shows what the commands really print, but for times and generated names."""

import re
import sys
from pathlib import Path

import pytest

from tests.support.default_port import default_port
from tests.support.program import REPOSITORY, environment
from tests.support.terminal import on_terminal

__all__ = ["default_port"]

README = (REPOSITORY / "README.md").read_text()
VARYING = {
    r"\b(run|ses|rnr)_[0-9a-f]+": r"\1_ID",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z": "TIMESTAMP",
    r"\d\d:\d\d:\d\d\.\d{3}": "TIME",
    r" +\d+\.\d{3} s": " SECONDS s",
}


def sample(command: str) -> str:
    """What the README shows below a command."""
    found = re.findall(rf"^\$ {re.escape(command)}\n((?:(?!\$ |```).*\n)*)", README, re.MULTILINE)
    assert len(found) == 1, f"the README shows `{command}` {len(found)} times"
    return str(found[0])


def plain(text: str) -> list[str]:
    """The lines, with what differs from run to run replaced."""
    for pattern, replacement in VARYING.items():
        text = re.sub(pattern, replacement, text)
    return text.splitlines()


def is_like(shown: list[str], sampled: list[str]) -> bool:
    """Whether the lines are those of the sample, in which `…` alone on a line stands for any lines."""
    pattern = "".join(r"(?:.*\n)*" if line == "…" else re.escape(line) + "\n" for line in sampled)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in shown)) is not None


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """With `fsm-runner` on PATH."""
    program = tmp_path / "bin" / "fsm-runner"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fsm_runner "$@"\n')
    program.chmod(0o755)
    inherited = environment(None)
    return {**inherited, "PATH": f"{program.parent}:{inherited['PATH']}", "STATE_DIR": str(tmp_path / "state")}


async def assert_printed(command: str, folder: Path, variables: dict[str, str]) -> None:
    async with on_terminal(command, folder, variables) as running:
        shown = await running.ends()
    assert is_like(plain(shown), plain(sample(command))), f"`{command}` prints:\n{shown}"


async def test_one_run(tmp_path: Path, variables: dict[str, str]) -> None:
    await assert_printed("fsm-runner run echo message=hello", tmp_path, variables)


async def test_a_runner_and_work_for_it(tmp_path: Path, variables: dict[str, str], default_port: None) -> None:
    command = "fsm-runner --profile echo"
    async with on_terminal(command, tmp_path, variables) as runner:
        await runner.shows("→ online: registered\n")
        shown = runner.text()
        assert is_like(plain(shown), plain(sample(command))), f"`{command}` prints:\n{shown}"
        for each in ("fsm-runner submit echo message=hello --wait", "fsm-runner runs"):
            await assert_printed(each, tmp_path, variables)
        await runner.terminate()


async def test_a_session_and_its_first_turn(tmp_path: Path, variables: dict[str, str], default_port: None) -> None:
    async with on_terminal("fsm-runner --profile echo-session", tmp_path, variables) as runner:
        await runner.shows("→ online")
        await assert_printed("fsm-runner submit --prompt hello --wait", tmp_path, variables)
        await runner.terminate()


async def test_an_executor_from_its_template(tmp_path: Path, variables: dict[str, str]) -> None:
    for command in (
        "fsm-runner executor new shout",
        "fsm-runner run --profile shout --prompt hello",
        "fsm-runner executor check executors/shout/shout | tail -n 1",
    ):
        await assert_printed(command, tmp_path, variables)
