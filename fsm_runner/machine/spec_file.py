"""Reads a spec file: what it says, on which lines, and every defect of its form."""

import tomllib
from codecs import BOM_UTF8
from pathlib import Path as FilePath
from typing import Any

import msgspec

from fsm_runner.machine.decoder import Problem, decode
from fsm_runner.machine.defects import Defect, Path, SpecError, in_order, place_of
from fsm_runner.machine.spec import Spec
from fsm_runner.machine.toml_lines import Lines

__all__ = ["SPEC_LIMIT_BYTES", "Defect", "Source", "SpecError", "load", "read"]

SPEC_LIMIT_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A spec and where it was written. One that was built in a program has the defaults."""

    spec: Spec
    """All of it, or with `defects` what could be decoded: fields at their defaults, transitions left out."""
    file: str = ""
    lines: Lines = msgspec.field(default_factory=Lines)
    damaged: frozenset[Path] = frozenset()
    """The paths that could not be decoded."""
    kept: tuple[int, ...] = ()
    """For each transition of `spec`, its index in the file."""
    defects: tuple[Defect, ...] = ()
    """Defects of form."""

    def defect(self, problem: Problem) -> Defect:
        path, message = problem
        if self.kept and path[:1] == ("transitions",) and len(path) > 1 and isinstance(path[1], int):
            path = ("transitions", self.kept[path[1]], *path[2:])
        return Defect(self.file, self.lines.of(path), place_of(path), message)


def read(path: FilePath | str) -> Source:
    """The spec in a file, as far as it can be decoded, with all defects of form.

    Raises `SpecError` when the file cannot be read or is not TOML.
    """
    text = _text(path)
    raw = _toml(str(path), text)
    decoded = decode(raw)
    lines = Lines(text)
    return Source(
        spec=decoded.spec,
        file=str(path),
        lines=lines,
        damaged=frozenset(problem.path for problem in decoded.problems),
        kept=decoded.kept,
        defects=in_order(
            Defect(str(path), lines.of(where), place_of(where), message) for where, message in decoded.problems
        ),
    )


def load(path: FilePath | str) -> Spec:
    """The spec in a file. Whether it is sound is another question: see `check`.

    Raises `SpecError` with all defects of form.
    """
    source = read(path)
    if source.defects:
        raise SpecError(source.defects)
    return source.spec


def _text(path: FilePath | str) -> str:
    try:
        with FilePath(path).open("rb") as file:
            content = file.read(SPEC_LIMIT_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _unreadable(path, f"cannot be read: {error}") from error
    if len(content) > SPEC_LIMIT_BYTES:
        raise _unreadable(path, f"is larger than {SPEC_LIMIT_BYTES} bytes")
    content = content.removeprefix(BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError([Defect(str(path), line, "", f"is not UTF-8: byte 0x{content[error.start]:02x}")]) from error


def _unreadable(path: FilePath | str, message: str) -> SpecError:
    return SpecError([Defect(str(path), None, "", message)])


def _toml(file: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise SpecError([Defect(file, None, "", "is nested too deeply")]) from error
    except ValueError as error:
        raise SpecError([_syntax_defect(file, text, str(error))]) from error


def _syntax_defect(file: str, text: str, message: str) -> Defect:
    """`tomllib` writes the place behind its message: `(at line 3, column 7)` or `(at end of document)`."""
    what, _, place = message.removesuffix(")").rpartition(" (at ")
    match place.replace(",", "").split():
        case ["line", line, "column", column]:
            return Defect(file, int(line), "", f"is not TOML: {what}, column {column}")
        case ["end", *_]:
            return Defect(file, text.count("\n") + 1, "", f"is not TOML: {what}, at the end of the file")
        case _:
            return Defect(file, None, "", f"is not TOML: {message}")
