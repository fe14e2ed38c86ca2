"""The environment of executors, and its documentation."""

import os
import re
import sys
from pathlib import Path

import pytest

from fsm_runner.executors.environment import PASSED_ON, SDK_FOLDER, executor_environment, session_variables
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, ProcessTree
from fsm_runner.process.user import RunUser

OWN_FOLDER = str(Path(sys.executable).parent)
DOCUMENT = Path(__file__).parents[2] / "docs" / "executors.md"
USER = RunUser(name="agent", uid=1000, gid=1000, groups=(), home="/home/agent")
SECRET = "AUTH0_RUNNER_CLIENT_SECRET"


def test_the_documentation_lists_exactly_the_variables_that_an_executor_gets() -> None:
    section = DOCUMENT.read_text().partition("<!-- environment -->")[2].partition("<!-- /environment -->")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert documented
    inherited = dict.fromkeys([*PASSED_ON, "LC_ALL", "UV_CACHE_DIR", "MY_API_KEY", SECRET, "PYTHONPATH"], "x")
    tags = {RUNNER_TAG_VARIABLE: "x.y"}
    base = executor_environment(inherited, named=["MY_API_KEY"], user=USER, tags=tags, has_sdk=True, uses_uv=True)
    environment = ProcessTree().tagged({**base, **session_variables("ses_1", "http://127.0.0.1:1/token")})
    examples = {"LC_ALL": "LC_…", "UV_CACHE_DIR": "UV_…", "MY_API_KEY": "env"}
    assert {examples.get(name, name) for name in environment} == documented


def test_only_listed_variables_are_passed_on() -> None:
    inherited = {
        "HOME": "/home/me",
        "LC_TIME": "C",
        "https_proxy": "http://p",
        "HTTPS_PROXY": "http://p",
        SECRET: "s",
        "PYTHONPATH": "/x",
        "LD_PRELOAD": "/x.so",
        "UV_INDEX": "x",
    }
    environment = executor_environment(inherited)
    assert environment.keys() == {"HOME", "LC_TIME", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "PATH"}


def test_variables_of_the_user_win_and_tags_are_added() -> None:
    inherited = {"HOME": "/home/me", "USER": "me"}
    environment = executor_environment(inherited, named=["HOME", "NOT_SET"], user=USER, tags={"TAG": "1"})
    del environment["PATH"]
    assert environment == {"HOME": "/home/agent", "USER": "agent", "LOGNAME": "agent", "TAG": "1"}


def test_the_sdk_comes_after_a_python_path_that_the_profile_names() -> None:
    assert executor_environment({"PYTHONPATH": "/x"}, has_sdk=True)["PYTHONPATH"] == str(SDK_FOLDER)
    named = executor_environment({"PYTHONPATH": "/x"}, named=["PYTHONPATH"], has_sdk=True)
    assert named["PYTHONPATH"] == f"/x{os.pathsep}{SDK_FOLDER}"


def test_a_procedural_executor_gets_no_address() -> None:
    assert session_variables("ses_1") == {"AGENT_SESSION_ID": "ses_1"}


def test_the_path_ends_with_the_folder_of_this_interpreter() -> None:
    assert executor_environment({"PATH": "/bin"})["PATH"] == f"/bin:{OWN_FOLDER}"


def test_a_path_that_has_the_folder_stays_the_same() -> None:
    assert executor_environment({"PATH": f"{OWN_FOLDER}:/bin"})["PATH"] == f"{OWN_FOLDER}:/bin"


@pytest.mark.parametrize("inherited", [{}, {"PATH": ""}])
def test_without_a_path_the_systems_default_is_used(inherited: dict[str, str]) -> None:
    assert executor_environment(inherited)["PATH"] == f"{os.defpath}:{OWN_FOLDER}"


def test_an_embedded_interpreter_adds_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert executor_environment({"PATH": "/bin"})["PATH"] == "/bin"


HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "ftp_proxy"])
@pytest.mark.parametrize(
    ("given", "no_proxy", "in_capitals"),
    [
        ({}, HERE, HERE),
        ({"no_proxy": "a.example"}, f"a.example,{HERE}", f"a.example,{HERE}"),
        ({"NO_PROXY": "a.example", "no_proxy": ""}, f"a.example,{HERE}", f"a.example,{HERE}"),
        ({"no_proxy": "a", "NO_PROXY": "b,localhost"}, f"a,{HERE}", "b,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a ::1, "}, "a ::1,127.0.0.1,localhost", "a ::1,127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
def test_this_machine_is_exempt_from_a_proxy(
    proxy: str, given: dict[str, str], no_proxy: str, in_capitals: str
) -> None:
    environment = executor_environment({proxy: "http://proxy:3128", **given})
    assert (environment["no_proxy"], environment["NO_PROXY"]) == (no_proxy, in_capitals)


def test_an_empty_proxy_variable_does_not_count() -> None:
    assert "NO_PROXY" not in executor_environment({"http_proxy": "", "no_proxy": "a"})
