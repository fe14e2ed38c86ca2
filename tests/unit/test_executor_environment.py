import os
import sys
from pathlib import Path

import pytest

from fsm_runner.executors.environment import executor_environment

OWN_FOLDER = str(Path(sys.executable).parent)


def test_only_what_is_named_is_passed_on() -> None:
    inherited = {
        "HOME": "/home/me",
        "LC_TIME": "C",
        "https_proxy": "http://p",
        "HTTPS_PROXY": "http://p",
        "AUTH0_RUNNER_CLIENT_SECRET": "s",
        "PYTHONPATH": "/x",
        "LD_PRELOAD": "/x.so",
    }
    environment = executor_environment(inherited, {})
    assert environment.keys() == {"HOME", "LC_TIME", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "PATH"}


def test_what_is_extra_wins() -> None:
    environment = executor_environment({"HOME": "/home/me"}, {"HOME": "/tmp", "AGENT_SESSION_ID": "ses_1"})
    assert environment["HOME"] == "/tmp"
    assert environment["AGENT_SESSION_ID"] == "ses_1"


def test_the_path_ends_with_the_folder_of_this_interpreter() -> None:
    assert executor_environment({"PATH": "/bin"}, {})["PATH"] == f"/bin:{OWN_FOLDER}"


def test_a_path_that_has_it_stays_as_it_is() -> None:
    assert executor_environment({"PATH": f"{OWN_FOLDER}:/bin"}, {})["PATH"] == f"{OWN_FOLDER}:/bin"


@pytest.mark.parametrize("inherited", [{}, {"PATH": ""}])
def test_no_path_is_the_default_of_the_system(inherited: dict[str, str]) -> None:
    assert executor_environment(inherited, {})["PATH"] == f"{os.defpath}:{OWN_FOLDER}"


def test_an_interpreter_of_unknown_place_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert executor_environment({"PATH": "/bin"}, {})["PATH"] == "/bin"


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
    environment = executor_environment({proxy: "http://proxy:3128", **given}, {})
    assert (environment["no_proxy"], environment["NO_PROXY"]) == (no_proxy, in_capitals)


def test_a_proxy_that_the_profile_names_counts_and_an_empty_one_does_not() -> None:
    assert executor_environment({}, {"HTTP_PROXY": "http://proxy:3128"})["NO_PROXY"] == HERE
    assert "NO_PROXY" not in executor_environment({"http_proxy": "", "no_proxy": "a"}, {})
