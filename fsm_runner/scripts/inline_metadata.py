"""Inline script metadata (PEP 723): the Python version and the packages that a script needs.

`packaging` and `importlib.metadata` are imported only if a script has such metadata.
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
"""The runner's name in package indexes."""

HEAD_BYTES = 64 * 1024
"""The part of a file that is searched for the metadata."""

_START = re.compile(rb"^# /// script[ \t]*\r?$", re.MULTILINE)
_BLOCK = re.compile(rb"^# /// script[ \t]*\r?\n(?P<lines>(?:#.*\n)*?)# ///[ \t]*\r?$", re.MULTILINE)


class _Metadata(msgspec.Struct, frozen=True, rename="kebab"):
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    tool: dict[str, object] = {}


def script_head(path: Path) -> bytes | None:
    """Return the beginning of the file if it has inline metadata, otherwise None.

    Raises `UsageError` if the file does not exist or cannot be read.
    """
    try:
        if path.is_dir():
            raise UsageError(f"the executor {path} is a directory; name the file in it")
        if not path.is_file():
            raise UsageError(f"there is no executor {path}")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as fault:
        raise UsageError(f"the executor {path} cannot be read: {fault.strerror}") from fault
    return head if _START.search(head) else None


def is_satisfied_here(head: bytes) -> bool:
    """Return whether this program's interpreter and packages satisfy the metadata.

    False for metadata with tool settings or invalid metadata, so that `uv` handles it and reports what is wrong.
    """
    missing = _missing_requirements(head)
    return missing is not None and not missing


def extra_for(head: bytes) -> str | None:
    """Return the smallest extra of the runner's distribution that installs all missing requirements, or None."""
    missing = _missing_requirements(head)
    if not missing:
        return None
    extras = sorted(_extras().items(), key=lambda item: len(item[1]))
    return next((name for name, offered in extras if all(_is_covered(each, offered) for each in missing)), None)


def _missing_requirements(head: bytes) -> list["Requirement"] | None:
    """Return the requirements that are not installed, or None if installing packages would not be enough."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    found = _BLOCK.search(head)
    if found is None:
        return None
    lines = [line.removeprefix(b"#").removeprefix(b" ") for line in found["lines"].splitlines()]
    try:
        metadata = msgspec.convert(tomllib.loads(b"\n".join(lines).decode()), _Metadata)
        python = ".".join(map(str, sys.version_info[:3]))
        if metadata.tool or not SpecifierSet(metadata.requires_python).contains(python):
            return None
        return [each for each in map(Requirement, metadata.dependencies) if not _is_installed(each)]
    except (ValueError, msgspec.ValidationError):
        return None


def _is_installed(requirement: "Requirement") -> bool:
    """Return whether the requirement is installed. One with extras counts as missing, since extras are not checked."""
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
    """Return the requirements of each extra of the runner's distribution; empty if the runner is not installed."""
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


def _is_covered(wanted: "Requirement", offered: Iterable["Requirement"]) -> bool:
    """Return whether one of the offered requirements is at least as strict as `wanted`."""
    from packaging.utils import canonicalize_name

    name = canonicalize_name(wanted.name)
    return any(
        canonicalize_name(each.name) == name
        and set(wanted.specifier) <= set(each.specifier)
        and wanted.extras <= each.extras
        and wanted.url == each.url
        for each in offered
    )
