"""What a Python script says it needs, in the header of PEP 723.

`packaging` and `importlib.metadata` are loaded only where there is such a header.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fsm_runner.errors import UsageError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "fsm-runner"
"""The runner's package, as pip names it."""

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
    missing = _missing_here(head)
    return missing is not None and not missing


def extra_for(head: bytes) -> str | None:
    """The extra of the runner's distribution that installs everything that the script lacks here; None if none does."""
    missing = _missing_here(head)
    if not missing:
        return None
    extras = sorted(_extras().items(), key=lambda item: len(item[1]))
    return next((name for name, offered in extras if all(_is_among(each, offered) for each in missing)), None)


def _missing_here(head: bytes) -> list["Requirement"] | None:
    """The requirements that are not installed here; None where packages alone would not help."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    found = _HEADER.search(head)
    if found is None:
        return None
    lines = [line.removeprefix(b"#").removeprefix(b" ") for line in found["lines"].splitlines()]
    try:
        header = msgspec.convert(tomllib.loads(b"\n".join(lines).decode()), _Header)
        python = ".".join(map(str, sys.version_info[:3]))
        if header.tool or not SpecifierSet(header.requires_python).contains(python):
            return None
        return [each for each in map(Requirement, header.dependencies) if not _is_installed(each)]
    except (ValueError, msgspec.ValidationError):
        return None


def _is_installed(requirement: "Requirement") -> bool:
    """A requirement with extras counts as missing, since the packages that extras add are not checked here."""
    from importlib import metadata

    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if requirement.url is not None or requirement.extras:
        return False
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _extras() -> dict[str, list["Requirement"]]:
    """The requirements of each extra of the runner's distribution; empty if the runner is not installed as one."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        runner = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return {}
    requirements = list(map(Requirement, runner.requires or ()))
    names = runner.metadata.get_all("Provides-Extra") or ()
    return {name: [each for each in requirements if _belongs_to(each, name)] for name in names}


def _belongs_to(requirement: "Requirement", extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_among(wanted: "Requirement", offered: Iterable["Requirement"]) -> bool:
    """Whether one of the offered requirements is at least as strict."""
    from packaging.utils import canonicalize_name

    name = canonicalize_name(wanted.name)
    return any(
        canonicalize_name(each.name) == name
        and set(wanted.specifier) <= set(each.specifier)
        and wanted.extras <= each.extras
        and wanted.url == each.url
        for each in offered
    )
