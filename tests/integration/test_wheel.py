"""The wheel carries all that the program needs: installed elsewhere, it works from any directory."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    called(folder, sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(REPOSITORY))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fsm-runner` in an environment of its own. What it depends on is borrowed from the environment of the tests."""
    venv = tmp_path_factory.mktemp("environment") / "venv"
    called(venv.parent, sys.executable, "-m", "venv", "--without-pip", str(venv))
    python = venv / "bin" / "python"
    called(
        venv.parent,
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A folder that a .pth file names has no .pth files of its own, so the checkout is not found through it.
    (venv / "lib" / version / "site-packages" / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "fsm-runner"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "any directory"
    folder.mkdir()
    return folder


def called(cwd: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """The finished process. Raises AssertionError with what it wrote when it failed."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    ended = subprocess.run(
        command, cwd=cwd, env=kept | pip, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


def test_the_wheel_holds_what_an_installed_runner_needs_beside_its_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("specs", "profiles", "executors", "workflows"):
        files = [
            path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        assert files
        for file in files:
            assert f"fsm_runner/bundled/{file.relative_to(REPOSITORY)}" in names
    assert "fsm_runner/machine/spec.schema.json" in names
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)


def test_an_installed_program_runs_an_agent_from_any_directory(program: Path, elsewhere: Path) -> None:
    ended = called(elsewhere, str(program), "run", "echo", "message=hello")
    assert ended.stdout == '{"message": "hello"}\n'
    assert ended.stderr == ""
    assert list(elsewhere.iterdir()) == []


def test_the_installed_program_is_the_one_of_the_wheel(program: Path, elsewhere: Path) -> None:
    look = "import fsm_runner, fsm_runner.config.paths as home; print(fsm_runner.__file__, home.bundled())"
    for path in called(elsewhere, str(program.parent / "python"), "-c", look).stdout.split():
        assert Path(path).is_relative_to(program.parents[1])


def test_an_installed_program_s_machines_are_sound(program: Path, elsewhere: Path) -> None:
    ended = called(elsewhere, str(program), "machine", "check")
    assert (ended.stdout, ended.stderr) == ("", "")


def test_an_installed_program_lists_its_profiles(program: Path, elsewhere: Path) -> None:
    listed = called(elsewhere, str(program), "--profile-list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == sorted(path.stem for path in REPOSITORY.glob("profiles/*.json"))


def test_a_command_keeps_its_right_to_be_executed(program: Path, elsewhere: Path) -> None:
    ended = called(elsewhere, str(program), "run", "test-procedural", 'json:={"a": [1, null]}')
    assert json.loads(ended.stdout) == {"a": [1, None]}
