"""Converts a run's parameters to the arguments of a command: protocol.md, section 2.1."""

import json
import shlex
import unicodedata

from fsm_runner.errors import UsageError
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted

COMMAND_LIMIT_CHARS = 32_000
"""The time for splitting grows with the square of the length: a million characters block the loop for a minute."""


class BadParameter(UsageError):
    """A parameter that cannot be an argument. The text names its key."""


class BadCommand(UsageError):
    """A command line that cannot be split into words."""


def command_arguments(parameters: JsonObject) -> list[str]:
    """Return `--key value` for each parameter, in order.

    true becomes `--key` alone, false and null are left out, a list becomes its elements joined by commas, a number or
    an object its JSON text. A value is always one argument, even if it begins with `-`. Raises `BadParameter`.
    """
    arguments: list[str] = []
    for key, value in parameters.items():
        _check_key(key)
        if value is not None and value is not False:
            arguments += [f"--{key}"] if value is True else [f"--{key}", _argument(key, value)]
    return arguments


def split_command(command: str) -> list[str]:
    """Split `command` into words as a shell does, without expanding anything. Raises `BadCommand`."""
    if len(command) > COMMAND_LIMIT_CHARS:
        raise BadCommand(f"the command is longer than {COMMAND_LIMIT_CHARS:,} characters")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadCommand(f"the command {quoted(command)} cannot be split into words: {error}") from error
    if not words or not words[0]:
        raise BadCommand(f"the command {quoted(command)} is empty: it must name a file")
    if fault := _fault(command):
        raise BadCommand(f"the command {quoted(command)} contains {fault}")
    return words


def _check_key(key: str) -> None:
    if not key:
        raise BadParameter("a parameter has an empty name")
    if key.startswith("-"):
        raise BadParameter(f"parameter {quoted(key)}: a name must not begin with `-`")
    # "Cc" and "Cs": control characters, and lone surrogates, which cannot be encoded.
    if "=" in key or any(char.isspace() or unicodedata.category(char) in ("Cc", "Cs") for char in key):
        raise BadParameter(f"parameter {quoted(key)}: a name must not contain `=`, white space or control characters")


def _argument(key: str, value: object) -> str:
    text = ",".join(_text(key, element) for element in value) if isinstance(value, list) else _text(key, value)
    if fault := _fault(text):
        raise BadParameter(f"parameter {quoted(key)}: its value contains {fault}, which an argument cannot contain")
    return text


def _text(key: str, value: object) -> str:
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
        return "a lone surrogate"
    return None
