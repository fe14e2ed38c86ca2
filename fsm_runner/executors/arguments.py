"""A run's parameters as the arguments of a command: protocol.md, section 2.1."""

import json
import shlex
import unicodedata

from fsm_runner.errors import UsageError
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted

_UNPRINTABLE = frozenset({"Cc", "Cs"})
"""Unicode's control characters, and halves of a surrogate pair, which have no form in bytes."""

COMMAND_LIMIT_CHARS = 32_000
"""Splitting takes four times as long for each doubling: with a million, nothing else gets its turn for a minute."""


class BadParameter(UsageError):
    """A parameter that cannot become an argument; the text names its key."""


class BadCommand(UsageError):
    """A command line that a shell could not read either."""


def command_arguments(parameters: JsonObject) -> list[str]:
    """`--key value` for each parameter, in their order.

    true gives `--key` alone, false and null give nothing, a list gives its elements joined by commas, a number and
    an object their JSON text. A value is one argument of its own whatever it holds, also a `-` at its beginning.
    Raises `BadParameter`.
    """
    arguments: list[str] = []
    for key, value in parameters.items():
        _check_key(key)
        if value is None or value is False:
            continue
        arguments.append(f"--{key}")
        if value is not True:
            arguments.append(_argument(key, value))
    return arguments


def split_command(command: str) -> list[str]:
    """The words of `command`, split as a shell does; nothing is expanded. Raises `BadCommand`."""
    if len(command) > COMMAND_LIMIT_CHARS:
        raise BadCommand(f"the command is longer than {COMMAND_LIMIT_CHARS:,} characters")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadCommand(f"the command {quoted(command)} cannot be split into words: {error}") from error
    if not words or not words[0]:
        raise BadCommand(f"the command {quoted(command)} is empty: it has to name a file")
    if fault := _fault(command):
        raise BadCommand(f"the command {quoted(command)} holds {fault}")
    return words


def _check_key(key: str) -> None:
    if not key:
        raise BadParameter("a parameter has an empty name")
    if key.startswith("-"):
        raise BadParameter(f"parameter {quoted(key)}: a name must not begin with `-`")
    if "=" in key or any(char.isspace() or unicodedata.category(char) in _UNPRINTABLE for char in key):
        raise BadParameter(f"parameter {quoted(key)}: a name must not hold `=`, white space or control characters")


def _argument(key: str, value: object) -> str:
    text = ",".join(_text(key, element) for element in value) if isinstance(value, list) else _text(key, value)
    if fault := _fault(text):
        raise BadParameter(f"parameter {quoted(key)}: its value holds {fault}, which no argument can")
    return text


def _text(key: str, value: object) -> str:
    """Text as it stands; anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameter(f"parameter {quoted(key)}: its value cannot be written as JSON: {error}") from error


def _fault(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return None
