"""The arguments of a command, as its process receives them."""

import json
import subprocess
import sys

import pytest

from fsm_runner.executors.arguments import command_arguments
from fsm_runner.protocol.wire import JsonObject


@pytest.mark.parametrize(
    "parameters",
    [{"message": "a  b"}, {"a": "-x", "b": "--", "c": "ü😀\n"}, {"list": ["$HOME", "`id`", "*"]}, {"o": {"q": "'\""}}],
)
def test_a_process_gets_the_same_arguments(parameters: JsonObject) -> None:
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    arguments = command_arguments(parameters)
    child = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True)
    assert json.loads(child.stdout) == arguments
