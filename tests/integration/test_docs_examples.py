"""The executors that the documents show: each is as it is tested, or is tested here as it stands."""

import re
from pathlib import Path

import pytest

from tests.support.program import REPOSITORY, environment, finish

EXECUTORS = (REPOSITORY / "docs" / "executors.md").read_text()
TESTED = REPOSITORY / "tests" / "support" / "executors"


def example(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(#!.*?)^```$", EXECUTORS, re.DOTALL | re.MULTILINE)
    return str(code)


def test_the_shell_executor_is_the_one_that_the_conformance_suite_is_tested_with() -> None:
    assert example("sh") == (TESTED / "plain-shell").read_text()


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
async def test_the_python_executor_holds_what_the_protocol_asks(tmp_path: Path, lifecycle: str) -> None:
    executor = tmp_path / "shout"
    executor.write_text(example("python"))
    executor.chmod(0o755)
    checked = await finish(tmp_path, environment(None), "executor", "check", str(executor), "--lifecycle", lifecycle)
    assert checked.code == 0, checked.stdout + checked.stderr
    assert " passed" in checked.stdout
