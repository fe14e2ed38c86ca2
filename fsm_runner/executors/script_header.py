"""What a Python script says it needs, in the header of PEP 723.

`packaging` and `importlib.metadata` are loaded only where there is such a header.
"""

import re
import sys
import tomllib
from pathlib import Path

import msgspec

from fsm_runner.errors import UsageError

SCRIPT_HEADER_BYTES = 64 * 1024
"""As much of a file is searched for it."""

_BEGINNING = re.compile(rb"^# /// script[ \t]*\r?$", re.MULTILINE)
_HEADER = re.compile(rb"^# /// script[ \t]*\r?\n(?P<lines>(?:#.*\n)*?)# ///[ \t]*\r?$", re.MULTILINE)


class _Header(msgspec.Struct, frozen=True, rename="kebab"):
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    tool: dict[str, object] = {}


def script_head(path: Path) -> bytes | None:
    """The beginning of the file, where that has the header; else None. Raises `UsageError` where there is no file."""
    try:
        if path.is_dir():
            raise UsageError(f"the executor {path} is a directory; name the file in it")
        if not path.is_file():
            raise UsageError(f"there is no executor {path}")
        with path.open("rb") as file:
            head = file.read(SCRIPT_HEADER_BYTES)
    except OSError as fault:
        raise UsageError(f"the executor {path} cannot be read: {fault.strerror}") from fault
    return head if _BEGINNING.search(head) else None


def is_met_here(head: bytes) -> bool:
    """Whether the interpreter and the packages of this very program are all that it asks for.

    One that has settings of other tools, or cannot be read, is left to `uv`, which says what is wrong with it.
    """
    from packaging.specifiers import SpecifierSet

    found = _HEADER.search(head)
    if found is None:
        return False
    lines = [line.removeprefix(b"#").removeprefix(b" ") for line in found["lines"].splitlines()]
    try:
        header = msgspec.convert(tomllib.loads(b"\n".join(lines).decode()), _Header)
        python = ".".join(map(str, sys.version_info[:3]))
        is_for_this_python = SpecifierSet(header.requires_python).contains(python)
        return not header.tool and is_for_this_python and all(map(_is_installed, header.dependencies))
    except (ValueError, msgspec.ValidationError):
        return False


def _is_installed(requirement_text: str) -> bool:
    """Extras bring requirements of their own, which nobody looks through here."""
    from importlib import metadata

    from packaging.requirements import Requirement

    requirement = Requirement(requirement_text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if requirement.url is not None or requirement.extras:
        return False
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
