"""`fsm-runner executor new`: writes an executor from templates."""

import re
import shlex
from pathlib import Path

import msgspec

from fsm_runner.cli.output import show
from fsm_runner.errors import FsmRunnerError, UsageError

TEMPLATES = Path(__file__).parents[1] / "templates" / "executor"
_EXECUTORS = {"python": "executor.py.in", "sh": "executor.sh.in"}


class NewFile(msgspec.Struct, frozen=True):
    path: Path
    content: str
    mode: int = 0o644


def write_executor(name: str, folder: Path, lifecycle: str, language: str) -> None:
    """Raises `UsageError`, before anything is written, for an invalid name or if a file exists already."""
    files = new_files(name, folder, lifecycle, language)
    existing = [str(file.path) for file in files if file.path.exists() or file.path.is_symlink()]
    if existing:
        raise UsageError(f"these files exist already and were not overwritten: {', '.join(existing)}")
    for file in files:
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            with file.path.open("x") as new:
                new.write(file.content)
            file.path.chmod(file.mode)
        except OSError as fault:
            raise FsmRunnerError(f"{file.path}: cannot be written: {fault.strerror}") from fault
    for file in files:
        show(f"wrote {file.path}")
    show(_next_steps(name, folder, files))


def new_files(name: str, folder: Path, lifecycle: str, language: str) -> list[NewFile]:
    """Return the executor, its profile and its test. Raises `UsageError` for an invalid name."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name):
        raise UsageError(
            f"{name!r} is not a valid name for an executor: use lower-case letters, digits and hyphens, begin with a "
            "letter, and use at most 64 characters"
        )
    values = {"name": name, "lifecycle": lifecycle}
    return [
        NewFile(folder / "executors" / name / name, _filled(values, _EXECUTORS[language]), 0o755),
        NewFile(folder / "profiles" / f"{name}.json", _filled(values, "profile.json.in")),
        NewFile(folder / "tests" / f"test_{name.replace('-', '_')}.py", _filled(values, "test.py.in")),
    ]


def _filled(values: dict[str, str], template: str) -> str:
    text = (TEMPLATES / template).read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda field: values[field[1]], text)


def _next_steps(name: str, folder: Path, files: list[NewFile]) -> str:
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    test = files[-1].path.relative_to(folder)
    return f"""
Try it:         {there}fsm-runner run --profile {name} --prompt hello
Test it:        {there}pytest {test}   (needs `pip install pytest`)
Start a runner: {there}fsm-runner --profile {name}
Give it work:   fsm-runner submit --profile {name} --prompt hello --wait"""
