"""Reads a spec file: its contents, their lines, and every deviation from the format."""

import itertools
import re
import stat
import tomllib
from codecs import BOM_UTF8
from pathlib import Path as FilePath
from typing import Any

import msgspec

from fsm_runner.machine.decoder import Problem, decode
from fsm_runner.machine.defects import Defect, Path, SpecError, in_order, place_of
from fsm_runner.machine.spec import Spec
from fsm_runner.machine.toml_lines import TomlLines

SPEC_LIMIT_BYTES = 1 << 20
_DEPTH_LIMIT = 100
"""Levels of tables and lists: more than any spec needs, and few enough for functions that recurse for each."""
_TOML_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


class SpecFile(msgspec.Struct, frozen=True, kw_only=True):
    """A spec and its place in a file. A spec that no file contains has the defaults."""

    spec: Spec
    """The whole spec. With `defects`, damaged fields have their defaults and damaged transitions are left out."""
    path: str = ""
    lines: TomlLines = msgspec.field(default_factory=TomlLines)
    damaged: frozenset[Path] = frozenset()
    """The paths that could not be decoded."""
    indices: tuple[int, ...] = ()
    """The index in the file of each transition of `spec`."""
    defects: tuple[Defect, ...] = ()
    """The deviations from the format."""

    def defect(self, problem: Problem) -> Defect:
        """Return the defect for a problem with `spec`."""
        path, message = problem
        if self.indices and path[:1] == ("transitions",) and len(path) > 1 and isinstance(path[1], int):
            path = ("transitions", self.indices[path[1]], *path[2:])
        return Defect(self.path, self.lines.of(path), place_of(path), message)


def read(path: FilePath | str) -> SpecFile:
    """Return the decodable part of a spec file, with all deviations from the format.

    Raises `SpecError` if the file cannot be read or is not TOML.
    """
    text = read_text(path)
    try:
        decoded = decode(parse_toml(path, text))
    except ValueError as error:
        raise _error(path, "contains a number with too many digits") from error
    lines = TomlLines(text)
    return SpecFile(
        spec=decoded.spec,
        path=str(path),
        lines=lines,
        damaged=frozenset(problem.path for problem in decoded.problems),
        indices=decoded.indices,
        defects=in_order(Defect(str(path), lines.of(at), place_of(at), message) for at, message in decoded.problems),
    )


def read_text(path: FilePath | str) -> str:
    """Return the text of a file that people write. Raises `SpecError` if it is not a file, too large or not UTF-8."""
    try:
        if not stat.S_ISREG(mode := FilePath(path).stat().st_mode):  # reading a named pipe would block
            raise _error(path, "is a directory" if stat.S_ISDIR(mode) else "is not a regular file")
        with FilePath(path).open("rb") as file:
            content = file.read(SPEC_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _error(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > SPEC_LIMIT_BYTES:
        raise _error(path, f"is larger than {SPEC_LIMIT_BYTES} bytes: shorten it, or name another file")
    content = content.removeprefix(BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(path, f"is not UTF-8: byte 0x{content[error.start]:02x}", line) from error


def parse_toml(path: FilePath | str, text: str) -> dict[str, Any]:
    """Raises `SpecError` if the text is not TOML, or nested too deeply for functions that recurse for each level."""
    too_deep = "is nested too deeply: remove the innermost tables and lists"
    try:
        raw = tomllib.loads(text)
    except RecursionError as error:
        raise _error(path, too_deep) from error
    except ValueError as error:
        if (found := _TOML_ERROR.fullmatch(str(error))) is None:
            raise _error(path, f"is not TOML: {error}") from error
        what, line, column = found.groups()
        where = f"column {column}" if line else "at the end of the file"
        raise _error(path, f"is not TOML: {what}, {where}", int(line or text.count("\n") + 1)) from error
    if _is_deep(raw):
        raise _error(path, too_deep)
    return raw


def _is_deep(raw: dict[str, Any]) -> bool:
    level: list[Any] = [raw]
    for _ in range(_DEPTH_LIMIT):
        contents = (it.values() if isinstance(it, dict) else it for it in level if isinstance(it, dict | list))
        level = list(itertools.chain.from_iterable(contents))
    return bool(level)


def _error(path: FilePath | str, message: str, line: int | None = None) -> SpecError:
    return SpecError([Defect(str(path), line, "", message)])
