"""Finds the line of each key in a TOML text.

`tomllib` reports no lines, but it can tell where a statement ends: a statement is the smallest number of lines that it
accepts. This module feeds it line by line and needs no parser of its own.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from fsm_runner.machine.defects import Path

_CLOSERS = ("]", "}", '"""', "'''")
"""A statement of several lines ends on a line with one of these; other lines need not be tried."""


class TomlLines:
    """The line of each key and list element of a TOML text."""

    def __init__(self, text: str | None = None) -> None:
        """`text`: TOML that `tomllib` accepts. Without it, nothing has a line."""
        self._text = text

    @cached_property  # a sound spec needs no lines, and this takes longer than everything else
    def _lines(self) -> dict[Path, int]:
        return {} if self._text is None else _indexed(self._text)

    def of(self, path: Path) -> int | None:
        """Return the line of a path, or of the innermost part of it that the text contains."""
        outward = (path[:length] for length in range(len(path), -1, -1))
        return next((self._lines[part] for part in outward if part in self._lines), None)


def _indexed(text: str) -> dict[Path, int]:
    lines: dict[Path, int] = {(): 1}
    table: Path = ()
    tables_in = Counter[Path]()
    for number, statement, content in _statements(text.replace("\r\n", "\n").split("\n")):
        if statement[0].lstrip(" \t").startswith("["):
            table = _header(content, tables_in)
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], number)
        else:
            for path, offset in _offsets(statement, content):
                lines.setdefault((*table, *path), number + offset)
    return lines


def _statements(lines: list[str]) -> Iterator[tuple[int, list[str], dict[str, Any]]]:
    """Yield each statement but comments: the number of its first line, its lines, and its content."""
    start = 0
    for end, line in enumerate(lines, 1):
        if end - start > 1 and not any(closer in line for closer in _CLOSERS):
            continue
        content = _parsed(lines[start:end])
        if content:
            yield start + 1, lines[start:end], content
        if content is not None:
            start = end


def _parsed(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):
        return None


def _header(content: dict[str, Any], tables_in: Counter[Path]) -> Path:
    """Return the path that `[a.b]` or `[[a.b]]` opens. `tables_in` counts the tables of each list of tables so far."""
    path: Path = ()
    while content:
        ((key, inner),) = content.items()
        path = (*path, key)
        if isinstance(inner, list):
            tables_in[path] += 1
            inner = inner[0]
        if path in tables_in:
            path = (*path, tables_in[path] - 1)
        content = inner
    return path


def _offsets(statement: list[str], content: dict[str, Any]) -> Iterator[tuple[Path, int]]:
    """Yield each path in a statement, and on which of its lines it begins, counted from 0.

    If a list has several lines, the lines so far and a closing bracket are a list again wherever an element has ended.
    The next element starts on the line after that.
    """
    yield from ((path, 0) for path in _paths(content))
    list_path, elements = _list_in(content)
    known, after = 0, 0
    for end in range(1, len(statement) + 1):
        so_far = elements if end == len(statement) else _list_in(_parsed([*statement[:end], "]"]) or {})[1]
        if so_far is not None:
            for index in range(known, len(so_far)):
                yield from ((path, after) for path in _paths(so_far[index], (*list_path, index)))
            known, after = len(so_far), end


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the path of a value and of everything in it, outside lists."""
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*at, key))


def _list_in(content: dict[str, Any]) -> tuple[Path, list[Any] | None]:
    """Return the list in a single statement `a.b = […]`, and its path within the table."""
    path: Path = ()
    value: Any = content
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        path = (*path, key)
    return path, value if isinstance(value, list) else None
