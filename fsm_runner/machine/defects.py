"""A defect of a spec, and its place in the file."""

import re
from collections.abc import Iterable

import msgspec

from fsm_runner.util.text import quoted

Path = tuple[str | int, ...]
"""A place in a spec: keys of tables and indices of lists, from the outside in."""

_BARE_KEY = re.compile("[A-Za-z0-9_-]+")


class Defect(msgspec.Struct, frozen=True):
    file: str
    """Empty for a spec that was not read from a file."""
    line: int | None
    """Counted from 1; None for the file as a whole."""
    place: str
    """The keys that lead to the defect, in TOML's notation: `states.executing.timeout_s`. Empty for the file itself."""
    message: str

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part not in ("", None))
        return ": ".join(part for part in (where, self.place, self.message) if part)


class SpecError(Exception):
    """A spec is not sound. The text has one line for each defect."""

    def __init__(self, defects: Iterable[Defect]) -> None:
        self.defects = in_order(defects)
        super().__init__("\n".join(str(defect) for defect in self.defects))


def in_order(defects: Iterable[Defect]) -> tuple[Defect, ...]:
    """Return each defect once, by file and line."""
    return tuple(sorted(set(defects), key=lambda it: (it.file, it.line or 0, it.place, it.message)))


def place_of(path: Path) -> str:
    """Return the path in TOML's notation: `states."cut off".ignore[2]`."""
    keys = (part if isinstance(part, int) or _BARE_KEY.fullmatch(part) else quoted(part) for part in path)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
