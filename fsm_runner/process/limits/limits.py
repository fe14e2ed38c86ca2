"""The resource limits of a run, as declared in a profile or in a flag."""

import re
from functools import partial
from typing import Annotated, Any

import msgspec

MOST_BYTES = 1 << 60
MOST_COUNT = 1_000_000_000
MOST_S = 1_000_000_000.0
LEAST_OPEN_FILES = 10
"""With fewer, a program cannot load its libraries or report why."""

_UNITS_BYTES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

Bytes = Annotated[int, msgspec.Meta(gt=0, le=MOST_BYTES)]
Count = Annotated[int, msgspec.Meta(gt=0, le=MOST_COUNT)]


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of all processes of one run together, unless stated otherwise. None: no limit."""

    memory_bytes: Bytes | None = None
    """Resident memory. Shared memory counts once if the system reports it."""
    processes: Count | None = None
    open_files: Annotated[int, msgspec.Meta(ge=LEAST_OPEN_FILES, le=MOST_COUNT)] | None = None
    """In each process, because the kernel counts them so."""
    cpu_s: Annotated[float, msgspec.Meta(gt=0, le=MOST_S)] | None = None
    """On all processors together, including processes that have ended."""
    output_bytes: Bytes | None = None
    """stdout and stderr together; for a persistent executor, in each turn."""

    @property
    def need_measuring(self) -> bool:
        """True if the processes of a run have to be measured regularly."""
        return self.memory_bytes is not None or self.processes is not None or self.cpu_s is not None


NO_LIMITS = ResourceLimits()


def parse_limits(text: str) -> ResourceLimits:
    """Parse `memory=2GiB,processes=200,open_files=1024,cpu=600,output=64MiB`, in which every part is optional.

    Raises ValueError, which says what was expected.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _PARSERS:
            raise ValueError(f"expected NAME=VALUE, separated by commas; NAME is one of {', '.join(_PARSERS)}")
        field, parse = _PARSERS[name]
        if field in fields:
            raise ValueError(f"{name} is given twice")
        try:
            fields[field] = parse(value)
        except ValueError as defect:
            raise ValueError(f"{name}: {defect}") from None
    return ResourceLimits(**fields)


def parse_size(text: str) -> int:
    """Return bytes. Raises ValueError."""
    match = re.fullmatch("([0-9]{1,20})(KiB|MiB|GiB|)", text)
    size_bytes = int(match[1]) * _UNITS_BYTES[match[2]] if match else 0
    if not 1 <= size_bytes <= MOST_BYTES:
        raise ValueError("expected a number of bytes above 0, or one with KiB, MiB or GiB, such as 512MiB")
    return size_bytes


def _count(text: str, least: int = 1) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= MOST_COUNT:
        raise ValueError(f"expected a whole number from {least} up")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", text) or not 0 < float(text) <= MOST_S:
        raise ValueError("expected a number of seconds above 0")
    return float(text)


_PARSERS: dict[str, tuple[str, Any]] = {
    "memory": ("memory_bytes", parse_size),
    "processes": ("processes", _count),
    "open_files": ("open_files", partial(_count, least=LEAST_OPEN_FILES)),
    "cpu": ("cpu_s", _seconds),
    "output": ("output_bytes", parse_size),
}


def size_text(size_bytes: int) -> str:
    """A readable size such as `2.1 GiB`, rounded up."""
    unit, unit_bytes = _unit_of(size_bytes)
    tenths = -(-size_bytes * 10 // unit_bytes)
    return f"{tenths // 10:,}{f'.{tenths % 10}' if tenths % 10 else ''} {unit or 'bytes'}"


def limit_text(limit_bytes: int) -> str:
    """A readable size that is exact."""
    _, unit_bytes = _unit_of(limit_bytes)
    return f"{limit_bytes:,} bytes" if limit_bytes * 10 % unit_bytes else size_text(limit_bytes)


def _unit_of(size_bytes: int) -> tuple[str, int]:
    """The largest unit that is not larger than the size."""
    return max((each for each in _UNITS_BYTES.items() if each[1] <= size_bytes), key=lambda each: each[1])
