"""What the commands print. Names, errors and results come from elsewhere, so none of them may control the terminal."""

import codecs
import json
import sys

import msgspec

from fsm_runner.redaction import without_logins
from fsm_runner.terminal import printable, printable_json


def show(text: object = "") -> None:
    """Print a line, or several, on stdout."""
    _write(printable(str(text)), to_stderr=False)


def show_json(record: object) -> None:
    """Print one line of JSON on stdout: a Struct, or builtins."""
    _write(printable_json(msgspec.json.encode(record).decode()), to_stderr=False)


def show_result(value: object) -> None:
    """Print a run's result on stdout: a text as it is, data as one line of JSON.

    A text keeps its control characters where stdout is no terminal: a program that reads it gets what the run gave.
    """
    encoding = sys.stdout.encoding or "utf-8"
    if not isinstance(value, str):
        text = printable_json(json.dumps(value, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
    else:
        text = printable(value) if sys.stdout.isatty() else value
    _write(text.encode(encoding, "backslashreplace").decode(encoding), to_stderr=False)


def say(text: object) -> None:
    """Print a line, or several, on stderr, without the logins of URLs."""
    _write(without_logins(printable(str(text))), to_stderr=True)


def _write(text: str, *, to_stderr: bool) -> None:
    # Imported here because `--help` must not pay for it.
    import typer

    # `color`: otherwise escape sequences would be cut out of a result.
    typer.echo(text, err=to_stderr, color=True)  # noqa: TID251
