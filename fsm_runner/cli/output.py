"""Prints text so that names, errors and results of other programs cannot control the terminal."""

import codecs
import json
import sys
from collections.abc import Iterable

import msgspec

from fsm_runner.diagnostics.redaction import without_logins
from fsm_runner.util.text import escaped, escaped_json

Row = tuple[str, ...]


def show(text: object = "") -> None:
    """Print one or more lines on stdout."""
    _write(escaped(str(text)), to_stderr=False)


def show_json(record: object) -> None:
    """Print a Struct, or builtins, as one line of JSON on stdout."""
    _write(escaped_json(msgspec.json.encode(record).decode()), to_stderr=False)


def show_result(value: object) -> None:
    """Print a run's result on stdout: text unchanged, data as one line of JSON.

    Control characters in text are escaped on a terminal only, so that a program that reads stdout gets the result.
    """
    encoding = sys.stdout.encoding or "utf-8"
    if not isinstance(value, str):
        text = escaped_json(json.dumps(value, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
    else:
        text = escaped(value) if sys.stdout.isatty() else value
    _write(text.encode(encoding, "backslashreplace").decode(encoding), to_stderr=False)


def show_table(columns: Row, rows: Iterable[Row], *, indent: str = "") -> None:
    """Print a table on stdout: the column names, then one line for each row."""
    table = [tuple(map(_one_line, row)) for row in (columns, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        show(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _one_line(text: str) -> str:
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: object) -> None:
    """Print one or more lines on stderr, without the logins in URLs."""
    _write(without_logins(escaped(str(text))), to_stderr=True)


def _write(text: str, *, to_stderr: bool) -> None:
    # Imported here to keep `--help` quick.
    import typer

    # Without `color`, typer would remove escape sequences from a result.
    typer.echo(text, err=to_stderr, color=True)  # noqa: TID251
