"""Executors with one fault each: the correct Python executor with a few words replaced."""

import sys
from pathlib import Path

import msgspec

from fsm_runner.protocol.statuses import Lifecycle
from tests.support.conformance import AMPLE_S, PLAIN_PYTHON

HANGS_S = 5.0
"""The time limit of a case for executors whose fault is that they hang."""

CASES_OF_TURNS = frozenset(
    {"start", "one-result", "turn-complete", "stays", "further-turns", "resume", "limited", "metadata-form"}
)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    replace: tuple[str, str]
    """A text in the correct executor and its replacement."""
    caught_by: frozenset[str]
    """The cases that fail. All others pass or are skipped."""
    lifecycle: Lifecycle = "one_shot"
    timeout_s: float = AMPLE_S
    is_of_turns: bool = False
    """The fault is in how turns end, so only `CASES_OF_TURNS` run, with parameters that provoke a limit."""


def fault(
    name: str,
    old: str,
    new: str,
    *caught_by: str,
    hangs: bool = False,
    persistent: bool = False,
    in_turns: bool = False,
) -> Fault:
    return Fault(
        name=name,
        replace=(old, new),
        caught_by=frozenset(caught_by),
        lifecycle="persistent" if persistent else "one_shot",
        timeout_s=HANGS_S if hangs else AMPLE_S,
        is_of_turns=in_turns,
    )


def write_executor(folder: Path, name: str, *replace: tuple[str, str]) -> Path:
    """Write the correct executor with some texts replaced. Raises ValueError unless each occurs exactly once."""
    source = PLAIN_PYTHON.read_text()
    for old, new in replace:
        if source.count(old) != 1:
            raise ValueError(f"{name}: {old!r} occurs {source.count(old)} times in {PLAIN_PYTHON}")
        source = source.replace(old, new)
    _, body = source.split("\n", 1)
    path = folder / name
    # An interpreter that starts quickly, because the tests start many processes.
    path.write_text(f"#!{sys.executable} -IS\n{body}")
    path.chmod(0o755)
    return path
