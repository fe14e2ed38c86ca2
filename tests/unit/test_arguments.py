import json

import pytest

from fsm_runner.executors.arguments import BadCommand, BadParameter, command_arguments, split_command
from fsm_runner.protocol.wire import JsonObject


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({}, []),
        ({"message": "hello"}, ["--message", "hello"]),
        ({"message": ""}, ["--message", ""]),
        ({"message": "a b\n'\"$x"}, ["--message", "a b\n'\"$x"]),
        ({"verbose": True, "quiet": False, "level": None}, ["--verbose"]),
        ({"n": 3, "x": -0.5, "big": 1e100}, ["--n", "3", "--x", "-0.5", "--big", "1e+100"]),
        ({"tags": ["a", "b", "c"]}, ["--tags", "a,b,c"]),
        ({"tags": []}, ["--tags", ""]),
        ({"mixed": ["a", 1, True, None, [2, "b"], {"k": "ü"}]}, ["--mixed", 'a,1,true,null,[2,"b"],{"k":"ü"}']),
        ({"filter": {"name": "ü", "n": [1]}}, ["--filter", '{"name":"ü","n":[1]}']),
        ({"b": "1", "a": "2"}, ["--b", "1", "--a", "2"]),
        ({"pattern": "--exec"}, ["--pattern", "--exec"]),
    ],
)
def test_parameters_become_arguments(parameters: JsonObject, arguments: list[str]) -> None:
    assert command_arguments(parameters) == arguments


@pytest.mark.parametrize("key", ["", "-x", "--", "a=b", "a b", "a\tb", "a\0b", "a\x7fb", "a\u2028b", "a\ud800"])
def test_a_name_that_would_not_stay_one_option_is_refused(key: str) -> None:
    with pytest.raises(BadParameter) as raised:
        command_arguments({key: "value"})
    assert json.dumps(key) in str(raised.value) or not key


@pytest.mark.parametrize("value", ["a\0b", ["a", "\0"], "\ud800", float("nan"), [float("inf")], {"a": "\udc80"}])
def test_a_value_that_no_argument_can_hold_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(BadParameter, match='"key"'):
        command_arguments({"key": value})


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(BadParameter, match='"key"'):
        command_arguments({"key": value})


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("commands/echo", ["commands/echo"]),
        (" commands/echo  --level 3 ", ["commands/echo", "--level", "3"]),
        ("'my command' \"a b\" c\\ d ''", ["my command", "a b", "c d", ""]),
        (
            "run $HOME `id` * # no comment; no shell",
            ["run", "$HOME", "`id`", "*", "#", "no", "comment;", "no", "shell"],
        ),
    ],
)
def test_a_command_is_split_as_a_shell_does(command: str, words: list[str]) -> None:
    assert split_command(command) == words


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("'' x", "is empty"),
        ("run 'it", "No closing quotation"),
        ("run \\", "No escaped character"),
        ("run a\0b", "NUL"),
    ],
)
def test_a_command_that_cannot_be_split_is_refused(command: str, reason: str) -> None:
    with pytest.raises(BadCommand, match=reason) as raised:
        split_command(command)
    assert json.dumps(command) in str(raised.value)


def test_a_command_of_any_length_is_refused_before_it_is_split() -> None:
    assert split_command("x" * 32_000)
    with pytest.raises(BadCommand, match="longer than 32,000 characters"):
        split_command("x" * 1_000_000)
